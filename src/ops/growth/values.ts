/**
 * The array type of a recipe's output: that of its inputs. Growth runs in float32; the same recipes given float64
 * inputs compute in float64, which is how tests tell an exact rule from one that is only close.
 */

/** @returns zeros in an array of the type of `model`, float32 where there is none. */
export function valuesLike(model: Float32Array | undefined, length: number): Float32Array {
  const wide: unknown = model;
  if (wide instanceof Float64Array) return new Float64Array(length) as unknown as Float32Array;
  return new Float32Array(length);
}
