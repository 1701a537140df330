/**
 * Log-probabilities of one row of logits. Sums are taken in double precision in index order and the result is
 * rounded once to float32, so the same row gives the same number on every backend, and a token's value is one
 * number wherever it is reported.
 */
import { CodedError } from "../../ops/errors.ts";
import type { TokenLogprobs } from "./servedModel.ts";

/** The highest logit of a row. */
export interface RowPeak {
  /** Its first index. */
  readonly argmax: number;
  readonly max: number;
}

export interface RowStats extends RowPeak {
  /** Sum of exp(logit - max), in [1, V]. */
  readonly sum: number;
  /** ln of the sum of exp(logit - max), in [0, ln V]. */
  readonly logSum: number;
}

/**
 * @param logits one row, [V]
 * @throws diverged when a logit is NaN or infinite, but for minus infinity: no probability can be told from such a row
 */
export function rowPeak(logits: Float32Array): RowPeak {
  let argmax = 0;
  let max = -Infinity;
  let numbers = 0;
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id]!;
    if (value <= max) numbers++;
    else if (value > max) {
      numbers++;
      max = value;
      argmax = id;
    }
  }
  if (!Number.isFinite(max) || numbers < logits.length) {
    throw new CodedError("diverged", "the model's logits are not finite: its weights are damaged or have diverged");
  }
  return { argmax, max };
}

/**
 * @param logits one row, [V]
 * @throws diverged as `rowPeak`
 */
export function rowStats(logits: Float32Array): RowStats {
  const { argmax, max } = rowPeak(logits);
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id]! - max);
  return { argmax, max, sum, logSum: Math.log(sum) };
}

/** @returns ln p(id) as a float32 value. */
export function logprobOf(logits: Float32Array, stats: RowStats, id: number): number {
  return Math.fround(logits[id]! - stats.max - stats.logSum);
}

/** @returns the `count` ids of highest logit, best first, the lower id first among equals. */
export function topIds(logits: Float32Array, count: number): number[] {
  const best: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id]!;
    if (best.length === count && (count === 0 || value <= logits[best[count - 1]!]!)) continue;
    let place = best.length;
    while (place > 0 && logits[best[place - 1]!]! < value) place--;
    best.splice(place, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}

/**
 * @param token the id that came next
 * @param top alternatives to report, 0 or more
 * @param stats of the row, where they are known already
 * @throws diverged
 */
export function tokenLogprobs(
  logits: Float32Array,
  token: number,
  top: number,
  stats: RowStats = rowStats(logits),
): TokenLogprobs {
  return {
    token,
    logprob: logprobOf(logits, stats, token),
    top: topIds(logits, top).map((id) => [id, logprobOf(logits, stats, id)] as const),
  };
}
