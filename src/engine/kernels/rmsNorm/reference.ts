/** Reference of `rmsNorm` (Zhang & Sennrich 2019): no mean is taken off, and eps lies inside the root. */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";

/** @see Kernels.rmsNorm */
export function rmsNorm(x_RD: tf.Tensor2D, gain_D: tf.Tensor1D, eps: number): tf.Tensor2D {
  return differentiable<tf.Tensor2D>(
    [x_RD, gain_D],
    [x_RD, gain_D],
    () => tf.mul<tf.Tensor2D>(tf.mul(x_RD, inverseRms(x_RD, eps)), gain_D),
    (dy_RD, saved) => {
      const x = savedAt<tf.Tensor2D>(saved, 0);
      const gain = savedAt<tf.Tensor1D>(saved, 1);
      const r_R1 = inverseRms(x, eps);
      const normed_RD = tf.mul<tf.Tensor2D>(x, r_R1);
      const g_RD = tf.mul<tf.Tensor2D>(dy_RD, gain);
      // d/dx of x r(x): the direct part, less the part along x that the norm takes away
      const along_R1 = tf.mean(tf.mul(g_RD, normed_RD), 1, true);
      const dx_RD = tf.mul(tf.sub(g_RD, tf.mul(normed_RD, along_R1)), r_R1);
      return [dx_RD, tf.sum(tf.mul(dy_RD, normed_RD), 0)];
    },
  );
}

/** @returns 1 / sqrt(mean(x^2) + eps) of each row, [R, 1]. */
function inverseRms(x_RD: tf.Tensor2D, eps: number): tf.Tensor2D {
  return tf.rsqrt(tf.add(tf.mean(tf.square(x_RD), 1, true), eps)) as tf.Tensor2D;
}
