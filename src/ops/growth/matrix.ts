/**
 * Builds one grown tensor from one source tensor, given the map of each of its axes: values are gathered, scaled by
 * row and column, and divided among the copies of an input, and what the source does not have is zero or drawn as a
 * new model's weights are. It knows no operator; operators choose maps, scales, splits and fills.
 * Source: method section 1.2 (writers, readers, splits) and 1.3 (blocks of zeros and random values).
 */
import { seededStream } from "../rng.ts";
import { newIndex, silentIndex, type AxisMap } from "./axes.ts";
import type { ColumnPlaces, MatrixRows, RowProgram, WriteRow } from "./rows.ts";
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

/** @returns how each row of the grown matrix, [target rows, target columns], is made from its row of the source. */
export function matrixRows(growth: MatrixGrowth): MatrixRows {
  const { rows, columns } = growth;
  const shape = { origin: rows.origin, sourceWidth: columns.sourceSize, width: columns.origin.length };
  return { ...shape, start: () => rowWriter(growth), program: () => rowProgram(growth) };
}

function rowWriter(growth: MatrixGrowth): WriteRow {
  const { rows, columns, fills, rowScale } = growth;
  const width = columns.origin.length;
  const stream = seededStream(growth.seed, `width fill ${growth.name}`);
  const draw = (fill: Fill, origin: number): number =>
    fill === "random" && origin !== silentIndex ? stream.normal(0, growth.std) : 0;
  const fresh = Int32Array.from(columns.origin.keys()).filter((column) => columns.origin[column]! < 0);
  const writeOld = oldColumns(growth);
  return (out, start, source, base, row) => {
    const from = rows.origin[row]!;
    if (from === silentIndex) {
      out.fill(0, start, start + width);
    } else if (from < 0) {
      columns.origin.forEach((origin, column) => {
        out[start + column] = draw(origin < 0 ? fills.newRowNewColumn : fills.newRowOldColumn, origin);
      });
    } else {
      for (const column of fresh) out[start + column] = draw(fills.oldRowNewColumn, columns.origin[column]!);
      writeOld(out, start, source, base, rowScale === null ? 1 : rowScale[row]!, row);
    }
  };
}

/** What a compiled kernel does instead; null where something is drawn, one number after the other. */
function rowProgram(growth: MatrixGrowth): RowProgram | null {
  const { rows, columns, fills, rowScale, columnScale } = growth;
  const newRows = rows.origin.some((from) => from === newIndex);
  const newColumns = columns.origin.some((from) => from === newIndex);
  const draws =
    (newColumns && fills.oldRowNewColumn === "random") ||
    (newRows && fills.newRowOldColumn === "random") ||
    (newRows && newColumns && fills.newRowNewColumn === "random");
  if (draws) return null;
  return { columns: placesOf(columns), rowScale, columnScale, ...wayOf(growth) };
}

/** How the columns of a row are written: see RowProgram. */
function wayOf({ columns, columnScale, split, seed, name }: MatrixGrowth): Pick<RowProgram, "way" | "divides" | "key"> {
  const divides = split !== null && columns.copies.some((count) => count > 1);
  if (divides && split === "elementwise") {
    return { way: "elementwise", divides, key: seededStream(seed, `width split ${name}`).uint32() };
  }
  if (divides && split === "scalar") return { way: "ranked", divides, key: 0 };
  const whole = columns.sourceSize;
  const tiled = columns.origin.length % whole === 0 && columns.origin.every((from, column) => from === column % whole);
  return { way: columnScale === null && tiled ? "tiled" : "scaled", divides, key: 0 };
}

/** Writes the columns of one row that come from the source: those of the row at `base`, times `scale`. */
type WriteColumns = (
  out: Float32Array,
  start: number,
  source: Float32Array,
  base: number,
  scale: number,
  row: number,
) => void;

function placesOf({ origin, copies, sourceSize }: AxisMap): ColumnPlaces {
  const first = new Int32Array(sourceSize + 1);
  copies.forEach((count, index) => (first[index + 1] = first[index]! + count));
  const next = first.slice(0, sourceSize);
  const columns = new Int32Array(first[sourceSize]!);
  origin.forEach((from, column) => {
    if (from >= 0) columns[next[from]!++] = column;
  });
  return { first, columns };
}

/** These loops take most of the time of a growth, so each way of dividing has one of its own. */
function oldColumns(growth: MatrixGrowth): WriteColumns {
  const { columns, columnScale } = growth;
  const { way, divides, key } = wayOf(growth);
  if (way === "elementwise") return elementwiseRow(columns, columnScale, key);
  if (way === "tiled") return tiledRow(columns, divides);
  return scaledRow(columns, columnScale, divides, way === "ranked");
}

/** Whole copies of a row one after the other. */
function tiledRow({ sourceSize, origin }: AxisMap, divides: boolean): WriteColumns {
  const width = origin.length;
  const whole = divides ? width / sourceSize : 1;
  return (out, start, source, base, scale) => {
    // One multiplication and one division, so that an even split by n is the source's weight over n to the bit.
    for (let index = 0; index < sourceSize; index += 1) out[start + index] = (source[base + index]! * scale) / whole;
    for (let done = sourceSize; done < width; done += sourceSize) {
      out.copyWithin(start + done, start, start + sourceSize);
    }
  };
}

/** Copies in the proportion 1 : 2 : 3 where `ranked`, else alike; their sum is the source's weight if it `divides`. */
function scaledRow(map: AxisMap, columnScale: Float64Array | null, divides: boolean, ranked: boolean): WriteColumns {
  const { first, columns } = placesOf(map);
  return (out, start, source, base, scale) => {
    for (let index = 0; index < map.sourceSize; index += 1) {
      const from = first[index]!;
      const count = first[index + 1]! - from;
      const whole = !divides ? 1 : ranked ? (count * (count + 1)) / 2 : count;
      for (let copy = 0; copy < count; copy += 1) {
        const column = columns[from + copy]!;
        const factor = scale * (columnScale === null ? 1 : columnScale[column]!) * (ranked ? copy + 1 : 1);
        out[start + column] = (source[base + index]! * factor) / whole;
      }
    }
  };
}

/**
 * Parts drawn anew for every weight: of two copies one gets a share from [1/8, 7/8) and the other the rest; more get
 * draws from (1/4, 7/4), divided by their sum. A draw is a hash of seed, name, row and column, not the next of a
 * stream, so that none waits for another.
 */
function elementwiseRow(map: AxisMap, columnScale: Float64Array | null, key: number): WriteColumns {
  const { first, columns } = placesOf(map);
  return (out, start, source, base, scale, row) => {
    const rowKey = mixed(key + Math.imul(row, 0x9e3779b9));
    for (let index = 0; index < map.sourceSize; index += 1) {
      const from = first[index]!;
      const count = first[index + 1]! - from;
      const value = source[base + index]! * scale;
      if (count === 2 && columnScale === null) {
        const left = columns[from]!;
        const share = shareOf(rowKey, left);
        out[start + left] = value * share;
        out[start + columns[from + 1]!] = value * (1 - share);
        continue;
      }
      let whole = 0;
      for (let copy = 0; copy < count; copy += 1) whole += count === 1 ? 1 : partOf(rowKey, columns[from + copy]!);
      for (let copy = 0; copy < count; copy += 1) {
        const column = columns[from + copy]!;
        const factor = columnScale === null ? 1 : columnScale[column]!;
        out[start + column] = (value * factor * (count === 1 ? 1 : partOf(rowKey, column))) / whole;
      }
    }
  };
}

/** A multiple of 2^-16 in [1/8, 7/8): so short that a bfloat16 times it is a float32, without rounding. */
function shareOf(rowKey: number, column: number): number {
  const word = mixed(rowKey + Math.imul(column, 0x85ebca6b));
  return (0x8000 + ((3 * (word >> 16)) >> 2)) * 2 ** -16;
}

/** A number of (1/4, 7/4). */
function partOf(rowKey: number, column: number): number {
  return 1 + 1.5 * 2 ** -32 * mixed(rowKey + Math.imul(column, 0x85ebca6b));
}

/** The last steps of MurmurHash3 (Appleby, public domain): every bit of the word decides every bit of the result. */
function mixed(word: number): number {
  const once = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  const twice = Math.imul(once ^ (once >>> 13), 0xc2b2ae35);
  return twice ^ (twice >>> 16);
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
