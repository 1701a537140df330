/**
 * How much memory a checkpoint takes when it is only run forward, told before it is loaded: estimates from above. What
 * its weights take depends on where they lie: the shared memory of `teamModel.ts` keeps matrices of bfloat16 in 16
 * bits, in whole panels of outputs; tensors of tfjs are float32.
 */
import { expectedTensors } from "../../ops/architectures/llama.ts";
import { maskOfNames } from "../../ops/growth/index.ts";
import type { CheckpointManifest } from "../../ops/manifest.ts";
import { maxStepLogits } from "./decoder.ts";
import { scoreStepTokens } from "./score.ts";

export type WeighedManifest = Pick<CheckpointManifest, "config" | "tensors" | "growthMask">;

const floatBytes = 4;
/** Code, stacks, scratch and what the allocator loses. */
const overheadBytes = 64 * 2 ** 20;
/** Positions of cache that a model must have room for; one with a longer context may run out of memory in it. */
const cachedTokens = 4096;
/** Outputs of a panel, at most, and what blocks of shared memory are multiples of. */
const panelOutputs = 16;
const blockBytes = 64;

/**
 * @param keepsHalf whether matrices of bfloat16 stay in 16 bits (`Backend.keepsHalf`), which those that a growth masks
 *   never do
 * @returns bytes of the weights
 */
export function weightBytes(manifest: WeighedManifest, keepsHalf: boolean): number {
  const dtypes = new Map(manifest.tensors.map(({ name, dtype }) => [name, dtype]));
  const maskOf = maskOfNames(manifest);
  return expectedTensors(manifest.config).reduce((sum, { name, shape }) => {
    const [outputs = 0, inputs] = shape;
    if (inputs === undefined) return sum + inBlocks(outputs * floatBytes);
    const isHalf = keepsHalf && dtypes.get(name) === "BF16" && maskOf(name) === null;
    const rows = Math.ceil(outputs / panelOutputs) * panelOutputs;
    return sum + inBlocks(rows * inputs * (isHalf ? 2 : floatBytes));
  }, 0);
}

/**
 * Bytes of the model with one context in its cache:
 *
 *   W + 4 (2 L S K H + C (8 D + 4 N H + 4 F) + 2 Z) + 64 MiB
 *
 * with W bytes of weights, L layers, S positions of a context (4096 at most), C positions computed at once, as many as
 * scoring does, and Z logits of a step.
 */
export function estimateServingMemory(manifest: WeighedManifest, keepsHalf: boolean): number {
  const { hiddenSize, intermediateSize, numHiddenLayers, vocabSize, maxPositionEmbeddings } = manifest.config;
  const queries = manifest.config.numAttentionHeads * manifest.config.headDim;
  const keys = manifest.config.numKeyValueHeads * manifest.config.headDim;
  const cache = 2 * numHiddenLayers * Math.min(maxPositionEmbeddings, cachedTokens) * keys;
  const stream = scoreStepTokens * (8 * hiddenSize + 4 * queries + 4 * intermediateSize);
  const logits = 2 * Math.max(vocabSize, Math.min(maxStepLogits, scoreStepTokens * vocabSize));
  return weightBytes(manifest, keepsHalf) + floatBytes * (cache + stream + logits) + overheadBytes;
}

function inBlocks(bytes: number): number {
  return Math.ceil(bytes / blockBytes) * blockBytes;
}
