/**
 * Reference of `rope` (Su et al. 2021) in the half-rotation layout of Hugging Face checkpoints. The rotation
 * is orthogonal, so its gradient is the rotation back: the same function with the sine negated.
 */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";
import type { RopeTables } from "../kernels.ts";

/** @see Kernels.rope */
export function rope(x_BTNH: tf.Tensor4D, tables: RopeTables): tf.Tensor4D {
  return differentiable<tf.Tensor4D>(
    [x_BTNH],
    [tables.cos, tables.sin],
    () => rotate(x_BTNH, tables.cos, tables.sin),
    (dy, saved) => [rotate(dy, savedAt<tf.Tensor2D>(saved, 0), tf.neg(savedAt<tf.Tensor2D>(saved, 1)))],
  );
}

function rotate(x_BTNH: tf.Tensor4D, cos_Th: tf.Tensor2D, sin_Th: tf.Tensor2D): tf.Tensor4D {
  const [batch, length, heads, headDim] = x_BTNH.shape;
  const half = headDim / 2;
  const cos = tf.reshape(cos_Th, [1, length, 1, half]);
  const sin = tf.reshape(sin_Th, [1, length, 1, half]);
  const low = tf.slice(x_BTNH, [0, 0, 0, 0], [batch, length, heads, half]);
  const high = tf.slice(x_BTNH, [0, 0, 0, half], [batch, length, heads, half]);
  const turnedLow = tf.sub(tf.mul(low, cos), tf.mul(high, sin));
  const turnedHigh = tf.add(tf.mul(high, cos), tf.mul(low, sin));
  return tf.concat([turnedLow, turnedHigh], 3) as tf.Tensor4D;
}
