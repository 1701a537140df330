/**
 * Width maps: for each index of a grown axis, the source index that it comes from. Axes are mapped apart (hidden,
 * intermediate, heads, the dimensions within a head) and combined to the axes that tensors really have. A map says
 * where values come from and how often each is used; what is done about the repetition (splitting, scaling, zeros)
 * is decided where matrices are built.
 * Source: method section 1.2, "Rule to implement" and "Other axes".
 */
import { seededStream } from "../rng.ts";

/** Origin of an index that the source does not have. */
export const newIndex = -1;
/** Origin of an index that the source does not have and that has to stay zero for the function to be kept. */
export const silentIndex = -2;

export interface AxisMap {
  readonly sourceSize: number;
  /** Source index of each target index, or newIndex, or silentIndex. */
  readonly origin: Int32Array;
  /** How often each source index is used. */
  readonly copies: Int32Array;
}

/** @returns the map with its copies counted. */
export function axisMap(sourceSize: number, origin: Int32Array): AxisMap {
  const copies = new Int32Array(sourceSize);
  for (const from of origin) if (from >= 0) copies[from]! += 1;
  return { sourceSize, origin, copies };
}

/** Whether the map changes nothing. */
export function isIdentity(map: AxisMap): boolean {
  return map.origin.length === map.sourceSize && map.origin.every((from, index) => from === index);
}

/** @returns each index as it is. */
export function identityMap(size: number): AxisMap {
  return axisMap(
    size,
    Int32Array.from({ length: size }, (_, index) => index),
  );
}

/**
 * Whole copies of the axis one after the other, then, where the target is no multiple, single copies of some
 * indices: of the first ones without a seed, else of a seeded choice, so that no part of the axis is favoured. How
 * often two indices are used differs by at most one.
 */
export function balancedMap(sourceSize: number, size: number, seed: number | null, axis: string): AxisMap {
  const rest = size % sourceSize;
  const chosen = seed === null || rest === 0 ? null : seededChoice(sourceSize, rest, seed, axis);
  const whole = size - rest;
  const origin = Int32Array.from({ length: size }, (_, index) =>
    index < whole || chosen === null ? index % sourceSize : chosen[index - whole]!,
  );
  return axisMap(sourceSize, origin);
}

/** `count` different indices below `size`, ascending. */
function seededChoice(size: number, count: number, seed: number, axis: string): Int32Array {
  const stream = seededStream(seed, `width map ${axis}`);
  const order = Int32Array.from({ length: size }, (_, index) => index);
  for (let index = 0; index < count; index += 1) {
    const other = index + stream.below(size - index);
    const kept = order[index]!;
    order[index] = order[other]!;
    order[other] = kept;
  }
  return order.slice(0, count).sort();
}

/** @returns `whole` indices in whole copies of the axis; the rest is new. */
export function paddedMap(sourceSize: number, size: number, whole = sourceSize): AxisMap {
  const origin = Int32Array.from({ length: size }, (_, index) => (index < whole ? index % sourceSize : newIndex));
  return axisMap(sourceSize, origin);
}

export interface HeadCounts {
  readonly queryHeads: number;
  readonly keyValueHeads: number;
}

export interface HeadMaps {
  readonly query: AxisMap;
  readonly keyValue: AxisMap;
  /**
   * Of the heads' outputs: as query, but silent for a new head that reads an old key/value head. What it attends to is
   * not zero, so only its output's weights can be.
   */
  readonly output: AxisMap;
}

/**
 * Which source head each head comes from, so that a query head's key/value head comes from the one that its source
 * reads. Groups that stay as large or grow are copied group by group (heads together tile); groups that shrink have
 * their key/value head repeated in place, so that plain repetition (to MHA) leaves the query heads where they are.
 *
 * @param padded new heads are new instead of copies
 * @returns null where no such map exists
 */
export function headMaps(source: HeadCounts, target: HeadCounts, padded: boolean): HeadMaps | null {
  const sourceGroup = source.queryHeads / source.keyValueHeads;
  const targetGroup = target.queryHeads / target.keyValueHeads;
  const shrinks = targetGroup < sourceGroup;
  if (padded && shrinks) return null;
  const query = new Int32Array(target.queryHeads);
  const output = new Int32Array(target.queryHeads);
  const keyValue = new Int32Array(target.keyValueHeads);
  const used = new Int32Array(source.keyValueHeads); // query heads handed out, per source group
  for (let group = 0; group < target.keyValueHeads; group += 1) {
    const repeated = Math.floor((group * source.keyValueHeads) / target.keyValueHeads);
    const from = shrinks ? repeated : group % source.keyValueHeads;
    const isNew = padded && group >= source.keyValueHeads;
    keyValue[group] = isNew ? newIndex : from;
    for (let member = 0; member < targetGroup; member += 1) {
      const head = group * targetGroup + member;
      const place = shrinks ? used[from]! : member;
      used[from]! += 1;
      const copied = from * sourceGroup + (place % sourceGroup);
      const joins = padded && !isNew && member >= sourceGroup;
      query[head] = isNew || joins ? newIndex : copied;
      output[head] = joins ? silentIndex : query[head]!;
    }
  }
  if (used.some((count) => count < sourceGroup)) return null;
  return {
    query: axisMap(source.queryHeads, query),
    keyValue: axisMap(source.keyValueHeads, keyValue),
    output: axisMap(source.queryHeads, output),
  };
}

/** The dimensions of one head, for each of the tensors that have them. */
export interface HeadDimMaps {
  readonly query: AxisMap;
  readonly key: AxisMap;
  readonly value: AxisMap;
}

/**
 * Grows a head from h to n h dimensions with its rotary frequencies kept: pair i of the source becomes pair n i, whose
 * angle is the same. The key is silent on the pairs between, so whatever the query holds there counts nothing; the
 * query's old rows are to be multiplied by sqrt(n) for the softmax's scale. Values have no frequencies.
 *
 * @param padded new query and value dimensions are new instead of copies
 */
export function headDimMaps(headDim: number, factor: number, padded: boolean): HeadDimMaps {
  const size = headDim * factor;
  const pairs = headDim / 2;
  const query = new Int32Array(size);
  const key = new Int32Array(size);
  for (let dim = 0; dim < size; dim += 1) {
    const half = dim < size / 2 ? 0 : 1;
    const pair = dim - (half * size) / 2;
    const aligned = pair % factor === 0;
    const from = half * pairs + Math.floor(pair / factor);
    query[dim] = aligned || !padded ? from : newIndex;
    key[dim] = aligned ? from : silentIndex;
  }
  const value = padded ? paddedMap(headDim, size) : balancedMap(headDim, size, null, "head_dim");
  return { query: axisMap(headDim, query), key: axisMap(headDim, key), value };
}

/** @returns the map of heads x dimensions: all of a new or silent head is so, in old heads dimensions decide. */
export function combinedMap(heads: AxisMap, dims: AxisMap): AxisMap {
  const size = dims.origin.length;
  const origin = new Int32Array(heads.origin.length * size);
  heads.origin.forEach((head, index) => {
    dims.origin.forEach((dim, place) => {
      const known = head >= 0 && dim >= 0 ? head * dims.sourceSize + dim : dim;
      origin[index * size + place] = head < 0 ? head : known;
    });
  });
  return axisMap(heads.sourceSize * dims.sourceSize, origin);
}
