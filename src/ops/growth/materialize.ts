/**
 * The arithmetic of a learned expansion, one target tensor at a time: mix the source's layers, then widen rows and
 * columns (LiGO widens first; both are linear, and this way costs less). Sums are made in double precision in a fixed
 * order and rounded once, so equal parameters give equal bytes everywhere. What a coefficient of zero weighs is not
 * looked at, and a single coefficient of one is a copy: stacked identities give the source's bits.
 */
import type { TensorSpec } from "../architectures/architecture.ts";
import { elementCount } from "../dtype.ts";
import { invariant } from "../errors.ts";
import type { AxisForm, Expansion, HeadSpread, TensorForm } from "./expansion.ts";
import type { Recipe } from "./plan.ts";
import { valuesLike } from "./values.ts";

/** Values of the expansion's parameters by name. */
export type ExpansionValues = (parameter: string) => Float32Array;

/** @returns the parameters as they are before any fit; each is computed when it is first asked for, and kept. */
export function initialValues({ parameters }: Expansion): ExpansionValues {
  const known = new Map<string, Float32Array>();
  return (name) => {
    const have = known.get(name);
    if (have !== undefined) return have;
    const parameter = parameters.find((candidate) => candidate.name === name);
    invariant(parameter, `the expansion has a parameter ${name}`);
    const values = parameter.initial();
    known.set(name, values);
    return values;
  };
}

/**
 * @param reuses a layer that is one source layer as it is may be a reference to it; false where the values are going
 *   to be learned, and the plan must not depend on them
 * @returns the recipe of one target tensor
 */
export function expansionRecipe(
  expansion: Expansion,
  spec: TensorSpec,
  values: ExpansionValues,
  reuses: boolean,
): Recipe {
  const form = expansion.formOf(spec);
  if (form.rows === null && form.columns === null) {
    if (form.mix === null) return { type: "copy", source: form.sources[0]! };
    const only = reuses ? soleSource(form, values) : null;
    if (only !== null) return { type: "copy", source: form.sources[only]! };
  }
  return { type: "build", inputs: form.sources, build: (inputs) => materialize(form, inputs, values) };
}

/** @returns the target tensor, row-major, of the inputs' array type. */
export function materialize(form: TensorForm, inputs: readonly Float32Array[], values: ExpansionValues): Float32Array {
  const mixed = form.mix === null ? inputs[0]!.slice() : mixLayers(inputs, coefficients(form, values));
  const [height, width = 1] = form.sourceShape as readonly [number, number?];
  const columns = mapOf(form.columns, width, values);
  const rows = mapOf(form.rows, height, values);
  const wide = columns === null ? mixed : timesTransposed(mixed, columns, width);
  const newWidth = columns === null ? width : columns.length / width;
  return rows === null ? wide : leftTimes(rows, wide, height, newWidth);
}

function coefficients({ mix, sources }: TensorForm, values: ExpansionValues): Float32Array {
  invariant(mix !== null, "a tensor of a layer is mixed");
  return values(mix.parameter).subarray(mix.row * sources.length, (mix.row + 1) * sources.length);
}

/** @returns the one source layer that counts, where it counts once; else null. */
function soleSource(form: TensorForm, values: ExpansionValues): number | null {
  const row = coefficients(form, values);
  const only = row.indexOf(1);
  return only >= 0 && row.every((value, index) => index === only || value === 0) ? only : null;
}

function mixLayers(inputs: readonly Float32Array[], row: Float32Array): Float32Array {
  const used = [...row.keys()].filter((index) => row[index] !== 0);
  const [only] = used;
  if (used.length === 1 && row[only!] === 1) return inputs[only!]!.slice();
  const sums = new Float64Array(inputs[0]!.length);
  for (const index of used) {
    const weight = row[index]!;
    const layer = inputs[index]!;
    for (let at = 0; at < sums.length; at += 1) sums[at]! += weight * layer[at]!;
  }
  return copyInto(valuesLike(inputs[0], sums.length), sums);
}

function copyInto(out: Float32Array, values: Float64Array): Float32Array {
  out.set(values);
  return out;
}

/** The map of an axis [new, old], from its parameter; null where the axis stays. */
function mapOf(form: AxisForm | null, size: number, values: ExpansionValues): Float32Array | null {
  if (form === null) return null;
  const map = values(form.parameter);
  return form.spread === null ? map : spreadMap(map, form.spread, size);
}

/** @returns the value map as a map of the attention output's columns. */
function spreadMap(map: Float32Array, { rows, columns, mask }: HeadSpread, size: number): Float32Array {
  const out = new Float32Array(mask.length);
  const width = columns.reduce((most, column) => Math.max(most, column), 0) + 1;
  for (let row = 0; row < rows.length; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const at = row * size + column;
      if (mask[at] !== 0) out[at] = map[rows[row]! * width + columns[column]!]!;
    }
  }
  return out;
}

/** The columns of one row of a map that are not zero. */
function nonZero(map: Float32Array, start: number, count: number): Int32Array {
  const found: number[] = [];
  for (let index = 0; index < count; index += 1) if (map[start + index] !== 0) found.push(index);
  return Int32Array.from(found);
}

/** @returns w [height, width] map^T, map [newWidth, width]. */
function timesTransposed(w: Float32Array, map: Float32Array, width: number): Float32Array {
  const height = w.length / width;
  const newWidth = map.length / width;
  const out = valuesLike(w, elementCount([height, newWidth]));
  for (let column = 0; column < newWidth; column += 1) {
    const used = nonZero(map, column * width, width);
    for (let row = 0; row < height; row += 1) {
      let sum = 0;
      for (let at = 0; at < used.length; at += 1) {
        const index = used[at]!;
        sum += map[column * width + index]! * w[row * width + index]!;
      }
      out[row * newWidth + column] = sum;
    }
  }
  return out;
}

/** @returns map [newHeight, height] w [height, width]. */
function leftTimes(map: Float32Array, w: Float32Array, height: number, width: number): Float32Array {
  const newHeight = map.length / height;
  const out = valuesLike(w, elementCount([newHeight, width]));
  const sums = new Float64Array(width);
  for (let row = 0; row < newHeight; row += 1) {
    sums.fill(0);
    for (const index of nonZero(map, row * height, height)) {
      const weight = map[row * height + index]!;
      const start = index * width;
      for (let column = 0; column < width; column += 1) sums[column]! += weight * w[start + column]!;
    }
    out.set(sums, row * width);
  }
  return out;
}
