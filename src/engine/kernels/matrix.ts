/**
 * Matrix products for the reference kernels, always as one plain product of two 2-D tensors. tfjs's wasm
 * backend does that form at 27-30 GFLOP/s, but the transposed and the batched ones at 2, so a transposed
 * operand is first written out as a tensor of its own.
 *
 * The wasm backend also keeps a packed copy of the right operand for as long as that tensor lives, and would
 * go on using it after somebody changed the tensor's bytes in place. So the right operand is always a tensor
 * made here and dropped at once.
 */
import * as tf from "@tensorflow/tfjs";

/** @returns a[M,K] b[K,N], for `b` that lives on (a weight). */
export function product(a_MK: tf.Tensor2D, b_KN: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => tf.matMul(a_MK, tf.add<tf.Tensor2D>(b_KN, 0)));
}

/** @returns a[M,K] b[N,K]^T. */
export function productTransposedRight(a_MK: tf.Tensor2D, b_NK: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => tf.matMul(a_MK, tf.transpose(b_NK)));
}

/** @returns a[K,M]^T b[K,N], for `b` that lives on. */
export function productTransposedLeft(a_KM: tf.Tensor2D, b_KN: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => product(tf.transpose(a_KM), b_KN));
}
