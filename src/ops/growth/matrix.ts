/**
 * Builds one grown tensor from one source tensor, given the map of each of its axes: values are gathered, scaled by
 * row and column, and divided among the copies of an input, and what the source does not have is zero or drawn as a
 * new model's weights are. It knows no operator; operators choose maps, scales, splits and fills.
 * Source: method section 1.2 (writers, readers, splits) and 1.3 (blocks of zeros and random values).
 */
import { seededStream } from "../rng.ts";
import type { AxisMap } from "./axes.ts";
import { silentIndex } from "./axes.ts";
import { valuesLike } from "./values.ts";

/**
 * How an input's weight is divided among the input's copies, so that they sum to it: `even` in equal parts, `scalar`
 * in the proportion 1 : 2 : 3 everywhere, `elementwise` in seeded parts drawn anew for every row, which is the one
 * that lets copies learn different things.
 */
export type Split = "even" | "scalar" | "elementwise";

export type Fill = "zero" | "random";

/** What stands where row or column are not the source's. */
export interface Fills {
  readonly oldRowNewColumn: Fill;
  readonly newRowOldColumn: Fill;
  readonly newRowNewColumn: Fill;
}

export interface MatrixGrowth {
  readonly rows: AxisMap;
  readonly columns: AxisMap;
  /** Factor of each target row; null for 1. */
  readonly rowScale: Float64Array | null;
  /** Factor of each target column; null for 1. */
  readonly columnScale: Float64Array | null;
  /** Division among the copies of a column; null where columns are outputs and copies are whole. */
  readonly split: Split | null;
  readonly fills: Fills;
  /** Standard deviation of random fills. */
  readonly std: number;
  /** Names the random stream; with the seed it decides every drawn number. */
  readonly name: string;
  readonly seed: number;
}

/** Parts of an elementwise split are drawn from (0.25, 1.75) before they are made to sum to 1. */
const partRange = { min: 0.25, width: 1.5 };

/** @returns the grown matrix, row-major [target rows, target columns]. */
export function growMatrix(source: Float32Array, growth: MatrixGrowth): Float32Array {
  const { rows, columns } = growth;
  const height = rows.origin.length;
  const width = columns.origin.length;
  const out = valuesLike(source, height * width);
  const parts = makeParts(growth);
  const stream = seededStream(growth.seed, `width fill ${growth.name}`);
  const draw = (fill: Fill, origin: number): number =>
    fill === "random" && origin !== silentIndex ? stream.normal(0, growth.std) : 0;
  const { fills, rowScale, columnScale } = growth;
  for (let row = 0; row < height; row += 1) {
    const from = rows.origin[row]!;
    const start = row * width;
    if (from === silentIndex) continue;
    if (from < 0) {
      for (let column = 0; column < width; column += 1) {
        const origin = columns.origin[column]!;
        out[start + column] = draw(origin < 0 ? fills.newRowNewColumn : fills.newRowOldColumn, origin);
      }
      continue;
    }
    const base = from * columns.sourceSize;
    const scale = rowScale === null ? 1 : rowScale[row]!;
    const share = parts(row);
    for (let column = 0; column < width; column += 1) {
      const origin = columns.origin[column]!;
      if (origin < 0) out[start + column] = draw(fills.oldRowNewColumn, origin);
      else {
        // One multiplication and one division, so that an even split by n is the source's weight over n to the bit.
        const factor = scale * (columnScale === null ? 1 : columnScale[column]!) * share.part[column]!;
        out[start + column] = (source[base + origin]! * factor) / share.whole[origin]!;
      }
    }
  }
  return out;
}

/** Parts of a row's columns, and what the parts of each source column sum to. */
interface Share {
  readonly part: Float64Array;
  readonly whole: Float64Array;
}

function makeParts(growth: MatrixGrowth): (row: number) => Share {
  const { origin, copies, sourceSize } = growth.columns;
  const part = new Float64Array(origin.length).fill(1);
  const whole = new Float64Array(sourceSize).fill(1);
  const fixed = { part, whole };
  if (growth.split === null || copies.every((count) => count <= 1)) return () => fixed;
  if (growth.split === "even") {
    copies.forEach((count, index) => (whole[index] = count));
    return () => fixed;
  }
  if (growth.split === "scalar") {
    const seen = new Float64Array(sourceSize);
    origin.forEach((from, column) => {
      if (from >= 0) part[column] = seen[from]! += 1;
    });
    copies.forEach((count, index) => (whole[index] = (count * (count + 1)) / 2));
    return () => fixed;
  }
  const stream = seededStream(growth.seed, `width split ${growth.name}`);
  return () => {
    whole.fill(0);
    for (let column = 0; column < origin.length; column += 1) {
      const from = origin[column]!;
      if (from < 0) continue;
      const drawn = copies[from] === 1 ? 1 : partRange.min + partRange.width * (stream.uint32() * 2 ** -32);
      part[column] = drawn;
      whole[from]! += drawn;
    }
    return fixed;
  };
}

/** @returns a grown bias or norm: gathered and scaled, where the source has nothing `fresh`, scaled alike. */
export function growVector(
  source: Float32Array,
  map: AxisMap,
  scale: Float64Array | null,
  fresh: number,
): Float32Array {
  const out = valuesLike(source, map.origin.length);
  map.origin.forEach((from, index) => {
    out[index] = (from < 0 ? fresh : source[from]!) * (scale === null ? 1 : scale[index]!);
  });
  return out;
}
