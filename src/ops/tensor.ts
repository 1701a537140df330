/**
 * What a tensor is before its bytes are read: a name, an element type, a shape, and where the bytes lie.
 * Element types carry the names that the safetensors format gives them.
 */

export const dtypes = ["F32", "F16", "BF16"] as const;

/** Element types that the service stores and computes from. */
export type Dtype = (typeof dtypes)[number];

export interface TensorInfo {
  /** Hugging Face name, verbatim. */
  readonly name: string;
  readonly dtype: Dtype;
  /** Row-major extents; a scalar has none. */
  readonly shape: readonly number[];
}

/** A tensor whose bytes lie in a blob: an immutable file named by its SHA-256. */
export interface TensorRef extends TensorInfo {
  /** SHA-256 of the whole blob, lowercase hex. */
  readonly blob: string;
  /** First byte of the tensor within the blob. */
  readonly offset: number;
  readonly sizeBytes: number;
  /** SHA-256 of the tensor's own bytes, lowercase hex. */
  readonly sha256: string;
}

/** A tensor's values, as numerics want them. */
export interface TensorValue {
  readonly info: TensorInfo;
  readonly values: Float32Array;
}
