/**
 * The exponentials of a row of logits, summed in blocks of ids: all that drawing a token and reporting its probability
 * need of the whole row, so that neither goes over it again. The one definition of these numbers: served models on
 * shared memory compute them in the threads of a step (`c/rowBlocks.c`), other backends here, and
 * both give the same bits, since the operations on doubles and their order are the same.
 */

/** Ids of a block; the last one of a row may have fewer. */
export const blockIds = 256;

/** Of each block of a row, in order. */
export interface RowBlocks {
  /** The largest logit; NaN where the block has a NaN. */
  readonly maxima: Float64Array;
  /** Sum of exp((logit - maximum) * scale); 0 where all are minus infinity. */
  readonly sums: Float64Array;
}

/** Sums of a block, taken side by side. */
const lanes = 8;
/** Adding it rounds a double of less than 2^51 to an integer. */
const rounder = 1.5 * 2 ** 52;
/** 1 / ln 2, and ln 2 in two parts, the first of 33 bits (Cody and Waite 1980). */
const perLn2 = 1.4426950408889634;
const [ln2High, ln2Low] = [0.6931471803691238, 1.9082149292705877e-10];
/** Below, the result is 0. */
const leastExponent = -708;
const powersOfHalf = Float64Array.from({ length: 1023 }, (_, k) => 2 ** -k);

/**
 * @param x at most 0
 * @returns e^x to within 1 unit in the last place; 0 below -708, where it is less than 4e-308
 */
export function expOf(x: number): number {
  if (!(x >= leastExponent)) return 0;
  const k = x * perLn2 + rounder - rounder;
  const high = x - k * ln2High;
  const low = k * ln2Low;
  const r = high - low;
  const lost = high - r - low;
  // The Taylor series of e^r from r^2 / 2 to r^13 / 13!, by Estrin's scheme.
  const r2 = r * r;
  const r4 = r2 * r2;
  const q2 = 0.5 + (1 / 6) * r;
  const q4 = 1 / 24 + (1 / 120) * r;
  const q6 = 1 / 720 + (1 / 5040) * r;
  const q8 = 1 / 40320 + (1 / 362880) * r;
  const q10 = 1 / 3628800 + (1 / 39916800) * r;
  const q12 = 1 / 479001600 + (1 / 6227020800) * r;
  const q = q2 + q4 * r2 + (q6 + q8 * r2 + (q10 + q12 * r2) * r4) * r4;
  return (r + (r2 * q + lost) + 1) * powersOfHalf[-k]!;
}

/** @returns the blocks of a row of `vocabSize` logits. */
export function roomForBlocks(vocabSize: number): RowBlocks {
  const count = Math.ceil(vocabSize / blockIds);
  return { maxima: new Float64Array(count), sums: new Float64Array(count) };
}

/**
 * @param logits one row, [V]
 * @param scale of the exponents: 1 / temperature
 */
export function rowBlocks(logits: Float32Array, scale: number): RowBlocks {
  const blocks = roomForBlocks(logits.length);
  const sums = new Float64Array(lanes);
  for (let block = 0; block < blocks.maxima.length; block++) {
    const first = block * blockIds;
    const end = Math.min(first + blockIds, logits.length);
    let most = -Infinity;
    let numbers = 0;
    for (let id = first; id < end; id++) {
      const value = logits[id]!;
      if (value > most) most = value;
      if (value <= most) numbers++;
    }
    sums.fill(0);
    for (let id = first; id < end; id++) sums[id & (lanes - 1)]! += expOf((logits[id]! - most) * scale);
    const [s0, s1, s2, s3, s4, s5, s6, s7] = sums as unknown as readonly [
      ...[number, number, number, number],
      ...[number, number, number, number],
    ];
    blocks.maxima[block] = numbers < end - first ? NaN : most;
    blocks.sums[block] = s0 + s2 + (s4 + s6) + (s1 + s3 + (s5 + s7));
  }
  return blocks;
}
