/**
 * A matrix built row by row, each from at most one row of one source tensor: what lets a growth stream through memory
 * in blocks, and a compiled kernel take the place of the loops. Rows are asked for from the first to the last, because
 * random fills are drawn in that order. Who executes a plan decides whether it takes the rows or the whole; the values
 * are the same to the bit.
 */
import { valuesLike } from "./values.ts";

/**
 * Writes target row `row` to `out`, from index `start` on.
 * @param source values that hold the row's source row from index `base` on; not looked at where it has none
 */
export type WriteRow = (out: Float32Array, start: number, source: Float32Array, base: number, row: number) => void;

/** Target columns of each source column, ascending: those of column i stand at first[i] .. first[i + 1]. */
export interface ColumnPlaces {
  readonly first: Int32Array;
  readonly columns: Int32Array;
}

/**
 * What is done to every row, as data. With v a source value, r and c the factors of its row and column (1 where null),
 * all in double precision, rounded once to float32 and then to the element type:
 * `tiled`: (v r) / n in whole copies one after the other, n their number if it `divides`, else 1;
 * `scaled`: (v (r c)) / n, n the copies of the column if it `divides`, else 1;
 * `ranked`: copy i of n takes (v ((r c) (i + 1))) / (n (n + 1) / 2);
 * `elementwise`: parts drawn by a hash of key, row and column (matrix.ts).
 * Columns without a source, and rows whose origin is negative, are zero.
 */
export interface RowProgram {
  readonly columns: ColumnPlaces;
  readonly rowScale: Float64Array | null;
  readonly columnScale: Float64Array | null;
  readonly way: "tiled" | "scaled" | "ranked" | "elementwise";
  readonly divides: boolean;
  /** Of the hash; an integer in [0, 2^32). */
  readonly key: number;
}

export interface MatrixRows {
  /** Source row of each target row; negative where it has none. */
  readonly origin: Int32Array;
  readonly sourceWidth: number;
  readonly width: number;
  /** @returns the writer, which is to be called once for each row, from row 0 on. */
  start(): WriteRow;
  /** @returns the same as data, for a compiled kernel; null where only `start` will do. */
  program(): RowProgram | null;
}

/** Float32 values of a block of target rows, at most, unless one row alone has more. */
const blockValues = 1 << 18;

/** @returns how many rows are built at once. */
export function rowsPerBlock({ width, sourceWidth }: Pick<MatrixRows, "width" | "sourceWidth">): number {
  return Math.max(1, Math.floor(blockValues / Math.max(width, sourceWidth)));
}

/** @returns the whole matrix, row-major, in an array of the type of `source`. */
export function buildRows(rows: MatrixRows, source: Float32Array): Float32Array {
  const { origin, width, sourceWidth } = rows;
  const out = valuesLike(source, origin.length * width);
  const write = rows.start();
  origin.forEach((from, row) => write(out, row * width, source, Math.max(0, from) * sourceWidth, row));
  return out;
}
