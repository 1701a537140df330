/** How much memory a checkpoint takes when it is only run forward; an estimate from above. */
import { countParameters } from "../../ops/architectures/llama.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";

const bytesPerElement = 4;
/** Code, stacks, scratch and what the allocator loses. */
const overheadBytes = 64 * 2 ** 20;
/** Positions computed at once while a prompt is read. */
const chunkTokens = 256;
/** Positions of cache that a model must have room for; one with a longer context may run out of memory in it. */
const cachedTokens = 4096;

/**
 * Bytes of the model in float32, with one context in its cache:
 *
 *   4 (P + 2 L S K H + C (8 D + 4 N H + 4 F) + C V) + 64 MiB
 *
 * with P parameters, L layers, S positions of a context (4096 at most), C = 256 positions computed at once.
 */
export function estimateServingMemory(config: LlamaConfig): number {
  const { hiddenSize, intermediateSize, numHiddenLayers, vocabSize, maxPositionEmbeddings } = config;
  const queries = config.numAttentionHeads * config.headDim;
  const keys = config.numKeyValueHeads * config.headDim;
  const cache = 2 * numHiddenLayers * Math.min(maxPositionEmbeddings, cachedTokens) * keys;
  const chunk = chunkTokens * (8 * hiddenSize + 4 * queries + 4 * intermediateSize + vocabSize);
  return bytesPerElement * (countParameters(config).total + cache + chunk) + overheadBytes;
}
