/**
 * How many FLOPs training costs. Two accounts: the paper's 6 N D (forward 2, backward 4 per parameter and token, with
 * N all parameters, both vocabulary tables included, and attention's own products left out), which every budget,
 * figure and speedup of this service uses; and a finer one per token that counts the matrix products that are really
 * made, for estimates of time.
 * Source: arXiv 2405.15319, section 4.2 and figure axes (method section 3.4).
 */
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import { countParameters, tensorSpecs } from "../architectures/llama.ts";
import { elementCount } from "../dtype.ts";

/** @returns 6 x N_total x tokens. */
export function trainingFlops(config: LlamaConfig, tokens: number): number {
  return 6 * countParameters(config).total * tokens;
}

export interface FlopsPerToken {
  /** Matrix products of the layers, one token forward. */
  readonly linear: number;
  /** Scores and weighted sums of causal attention, averaged over the positions of a sequence. */
  readonly attention: number;
  /** Product with the output head, tied or not. */
  readonly head: number;
  /** The three together. */
  readonly forward: number;
  /** Forward and backward: 3 x forward. */
  readonly training: number;
  /** The paper's account: 6 x N_total. */
  readonly paper: number;
}

/**
 * @param sequenceLength positions of a training sequence, from 1
 * @returns FLOPs of one token; a multiply-add counts 2, elementwise work nothing
 */
export function flopsPerToken(config: LlamaConfig, sequenceLength: number): FlopsPerToken {
  const weights = tensorSpecs(config).filter(({ row }) => row.kind === "linear");
  const linear = 2 * weights.reduce((total, { shape }) => total + elementCount(shape), 0);
  const meanContext = (sequenceLength + 1) / 2;
  const queryWidth = config.numAttentionHeads * config.headDim;
  const attention = config.numHiddenLayers * 2 * 2 * queryWidth * meanContext;
  const head = 2 * config.vocabSize * config.hiddenSize;
  const forward = linear + attention + head;
  return { linear, attention, head, forward, training: 3 * forward, paper: 6 * countParameters(config).total };
}
