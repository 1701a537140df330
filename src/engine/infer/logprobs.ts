/**
 * Log-probabilities of one row of logits. Sums are taken in double precision as `rowBlocks.ts` says, then over the
 * blocks in order, and the result is rounded once to float32: the same row gives the same number on every backend, and
 * a token's value is one number wherever it is reported.
 */
import { CodedError } from "../../ops/errors.ts";
import type { LogitRow } from "./logitRow.ts";
import type { RowBlocks } from "../kernels/inference/rowBlocks.ts";
import { blockIds, expOf } from "../kernels/inference/rowBlocks.ts";
import type { TokenLogprobs } from "./servedModel.ts";

/** The highest logit of a row. */
export interface RowPeak {
  /** Its first index. */
  readonly argmax: number;
  readonly max: number;
}

export interface RowStats extends RowPeak {
  /** ln of the sum of exp(logit - max), in [0, ln V]. */
  readonly logSum: number;
}

/**
 * @throws diverged when a logit is NaN or infinite, but for minus infinity: no probability can be told from such a row
 */
export function rowPeak(row: LogitRow): RowPeak {
  const { maxima } = row.blocks();
  let max = -Infinity;
  let best = 0;
  let numbers = 0;
  for (let block = 0; block < maxima.length; block++) {
    const value = maxima[block]!;
    if (value <= max) numbers++;
    else if (value > max) {
      numbers++;
      max = value;
      best = block;
    }
  }
  if (!Number.isFinite(max) || numbers < maxima.length) {
    throw new CodedError("diverged", "the model's logits are not finite: its weights are damaged or have diverged");
  }
  return { argmax: row.logits.indexOf(max, best * blockIds), max };
}

/**
 * @param max the highest logit of the row
 * @param scale of the exponents, that of `blocks`
 * @returns sum of exp((logit - max) * scale) over each block
 */
export function blockWeights({ maxima, sums }: RowBlocks, max: number, scale: number): Float64Array {
  return sums.map((sum, block) => sum * expOf((maxima[block]! - max) * scale));
}

/** @throws diverged as `rowPeak` */
export function rowStats(row: LogitRow): RowStats {
  const peak = rowPeak(row);
  let sum = 0;
  for (const weight of blockWeights(row.blocks(), peak.max, 1)) sum += weight;
  return { ...peak, logSum: Math.log(sum) };
}

/** @returns ln p(id) as a float32 value. */
export function logprobOf({ logits }: LogitRow, stats: RowStats, id: number): number {
  return Math.fround(logits[id]! - stats.max - stats.logSum);
}

/** @returns the `count` ids of highest logit, best first, the lower id first among equals. */
export function topIds(row: LogitRow, count: number): number[] {
  const { logits } = row;
  const { maxima } = row.blocks();
  const best: number[] = [];
  if (count === 0) return best;
  for (let block = 0; block < maxima.length; block++) {
    // Most blocks have nothing to give once some are known.
    if (best.length === count && maxima[block]! <= logits[best[count - 1]!]!) continue;
    const end = Math.min((block + 1) * blockIds, logits.length);
    for (let id = block * blockIds; id < end; id++) {
      const value = logits[id]!;
      if (best.length === count && value <= logits[best[count - 1]!]!) continue;
      let place = best.length;
      while (place > 0 && logits[best[place - 1]!]! < value) place--;
      best.splice(place, 0, id);
      if (best.length > count) best.pop();
    }
  }
  return best;
}

/**
 * @param token the id that came next
 * @param top alternatives to report, 0 or more
 * @throws diverged
 */
export function tokenLogprobs(row: LogitRow, token: number, top: number): TokenLogprobs {
  const stats = rowStats(row);
  return {
    token,
    logprob: logprobOf(row, stats, token),
    top: topIds(row, top).map((id) => [id, logprobOf(row, stats, id)] as const),
  };
}
