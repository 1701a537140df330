/**
 * One row of logits as a model hands it out, with the sums of its exponentials in blocks: those at temperature 1 may
 * have been computed with the row, others are when they are asked for. It is a view of the model's memory until the
 * model's next step, so whoever wants it longer copies it.
 */
import type { RowBlocks } from "../kernels/inference/rowBlocks.ts";
import { rowBlocks } from "../kernels/inference/rowBlocks.ts";

/**
 * @param temperature more than 0
 * @returns what exponents are multiplied by: finite, where the reciprocal of a tiny temperature is not
 */
export function scaleOf(temperature: number): number {
  return Math.min(1 / temperature, Number.MAX_VALUE);
}

export class LogitRow {
  /** [V], to be read only. */
  readonly logits: Float32Array;
  readonly #compute: (scale: number) => RowBlocks;
  #plain: RowBlocks | null;

  /**
   * @param plain blocks at temperature 1, where they are known
   * @param compute gives the blocks of this row as `rowBlocks` would, or faster
   */
  constructor(
    logits: Float32Array,
    plain: RowBlocks | null = null,
    compute = (scale: number): RowBlocks => rowBlocks(logits, scale),
  ) {
    this.logits = logits;
    this.#plain = plain;
    this.#compute = compute;
  }

  /** @param temperature more than 0; the exponents are divided by it */
  blocks(temperature = 1): RowBlocks {
    return temperature === 1 ? (this.#plain ??= this.#compute(1)) : this.#compute(scaleOf(temperature));
  }

  /** @returns the row in memory of its own. */
  copy(): LogitRow {
    const plain = this.#plain && { maxima: this.#plain.maxima.slice(), sums: this.#plain.sums.slice() };
    return new LogitRow(this.logits.slice(), plain);
  }
}

/** @returns the rows of row-major logits [rows, V]. */
export function rowsOf(values: Float32Array, vocabSize: number): LogitRow[] {
  return Array.from(
    { length: values.length / vocabSize },
    (_, row) => new LogitRow(values.subarray(row * vocabSize, (row + 1) * vocabSize)),
  );
}
