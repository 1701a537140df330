/**
 * How the next token is chosen from a row of logits: greedily, or drawn from the softmax at a temperature,
 * cut to its nucleus (Holtzman et al. 2020, arXiv:1904.09751, section 3.1). A draw takes exactly one uniform
 * number, so a seed names one text on every machine whose logits agree.
 */
import type { RowStats } from "./logprobs.ts";
import { rowPeak, rowStats } from "./logprobs.ts";

export interface SampleSettings {
  /** 0 = greedy. */
  readonly temperature: number;
  /** Mass of the nucleus, in (0, 1]; 1 = no cut. */
  readonly topP: number;
}

/**
 * @param logits one row, [V]
 * @param uniform a number in [0, 1) per call; called once per draw, never when greedy
 * @param known stats of the row, where they are known already: exponentials are most of a draw's time
 * @returns the chosen id; greedy: the first id with the highest logit
 * @throws diverged when the logits are not finite
 */
export function sample(
  logits: Float32Array,
  settings: SampleSettings,
  uniform: () => number,
  known?: RowStats,
): number {
  if (settings.temperature === 0) return (known ?? rowPeak(logits)).argmax;
  if (settings.temperature === 1 && settings.topP >= 1) return drawPlain(logits, uniform(), known ?? rowStats(logits));
  const { argmax, max } = known ?? rowPeak(logits);
  const weights = new Float64Array(logits.length);
  let total = 0;
  for (let id = 0; id < logits.length; id++) {
    const weight = Math.exp((logits[id]! - max) / settings.temperature);
    weights[id] = weight;
    total += weight;
  }
  const draw = uniform();
  if (settings.topP >= 1) return pick(weights, null, draw * total, argmax);
  const order = byWeight(weights);
  let mass = 0;
  let size = 0;
  // The smallest set whose mass reaches topP: the id that crosses the line belongs to it, and one always does.
  while (size < order.length && (size === 0 || mass < settings.topP * total)) mass += weights[order[size++]!]!;
  return pick(weights, order.subarray(0, size), draw * mass, argmax);
}

/** At temperature 1 the weights are the terms of the row's sum; those up to the drawn id are computed again. */
function drawPlain(logits: Float32Array, draw: number, { argmax, max, sum }: RowStats): number {
  const target = draw * sum;
  let mass = 0;
  let last = argmax;
  for (let id = 0; id < logits.length; id++) {
    const weight = Math.exp(logits[id]! - max);
    if (weight === 0) continue;
    mass += weight;
    last = id;
    if (target < mass) return id;
  }
  return last;
}

/** Ids by falling weight; the lower id first among equals. */
function byWeight(weights: Float64Array): Uint32Array {
  return Uint32Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]! || a - b);
}

/** Walks `order` (null: all ids) until the running mass passes `target`. */
function pick(weights: Float64Array, order: Uint32Array | null, target: number, fallback: number): number {
  const count = order === null ? weights.length : order.length;
  let mass = 0;
  let last = fallback;
  for (let i = 0; i < count; i++) {
    const id = order === null ? i : order[i]!;
    if (weights[id] === 0) continue;
    mass += weights[id]!;
    last = id;
    if (target < mass) return id;
  }
  // Rounding can leave the target a hair above the sum: the last id with any mass is meant.
  return last;
}
