/**
 * How much memory a training takes, and the micro-batch that follows from it. An estimate from above, of the
 * tensors that are alive when the backward pass begins; it errs on the safe side by design, because an
 * allocation that fails inside a compute backend is not always noticed there.
 */
import { countParameters } from "../../ops/architectures/llama.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import { CodedError } from "../../ops/errors.ts";

const bytesPerElement = 4;
/** Code, stacks, scratch and what the allocator loses. */
export const overheadBytes = 64 * 2 ** 20;
/** Logits held at once by `crossEntropy`, elements. */
const slabElements = 1 << 22;
/** Weights, two moments, the gradient of a micro-batch, and the sum of those before. */
export const parameterCopies = 5;
/** Tokens of a micro-batch beyond which larger ones only cost memory. */
export const sensibleTokens = 4096;

/**
 * Bytes of a training with `sequences` sequences of `length` tokens in a micro-batch. With P parameters,
 * R = sequences x length rows, L layers:
 *
 *   4 (5 P + R ((L + 1) A + 3 D) + 2 V D + 3 min(R V, 2^22) + 6 (N/K) T^2) + 64 MiB
 *   A = 6 D + 3 N H + 3 K H + 3 F
 *
 * A is what a layer keeps for its backward pass: the stream before attention and MLP and what each adds to it,
 * the two norms' outputs, queries and keys before and after rotation, values, attention's output, gate, up and
 * their product; one layer more stands for what is computed on the way. The head is held transposed beside its
 * gradient; scores of one group at a time.
 */
export function estimateTrainingMemory(config: LlamaConfig, sequences: number, length: number): number {
  const { hiddenSize: d, intermediateSize: f, numHiddenLayers: layers, vocabSize: v } = config;
  const queries = config.numAttentionHeads * config.headDim;
  const keys = config.numKeyValueHeads * config.headDim;
  const rows = sequences * length;
  const perLayer = 6 * d + 3 * queries + 3 * keys + 3 * f;
  const activations = rows * ((layers + 1) * perLayer + 3 * d);
  const head = 2 * v * d + 3 * Math.min(rows * v, Math.max(slabElements, v));
  const scores = 6 * (config.numAttentionHeads / config.numKeyValueHeads) * length ** 2;
  const parameters = parameterCopies * countParameters(config).total;
  return bytesPerElement * (parameters + activations + head + scores) + overheadBytes;
}

/**
 * The number of sequences computed at once.
 * @param sequences those of a whole batch
 * @param asked a number the caller wants, or null for the largest divisor of `sequences` that fits and has
 *   no more than 4096 tokens
 * @param memoryBytes what the backend has, or null when unknown
 * @throws unprocessable when `asked` does not divide `sequences`; model_too_large when it does not fit
 */
export function chooseMicroBatch(
  config: LlamaConfig,
  sequences: number,
  length: number,
  asked: number | null,
  memoryBytes: number | null,
): number {
  if (asked !== null && (asked < 1 || sequences % asked !== 0)) {
    const wanted = `a divisor of the ${sequences} sequences of a batch is wanted`;
    throw new CodedError("unprocessable", `micro_batch_sequences is ${asked}, ${wanted}`);
  }
  const fits = (micro: number): boolean =>
    memoryBytes === null || estimateTrainingMemory(config, micro, length) <= memoryBytes;
  const least = asked ?? 1;
  if (!fits(least)) {
    const bytes = estimateTrainingMemory(config, least, length);
    const need = `training with micro-batches of ${least} x ${length} tokens needs about ${bytes} bytes`;
    throw new CodedError("model_too_large", `${need}, the backend has ${memoryBytes}`, {
      details: { neededBytes: bytes, availableBytes: memoryBytes },
    });
  }
  if (asked !== null) return asked;
  for (let micro = sequences; micro > 1; micro--) {
    if (sequences % micro === 0 && micro * length <= sensibleTokens && fits(micro)) return micro;
  }
  return 1;
}
