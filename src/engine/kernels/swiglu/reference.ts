/** Reference of `swiglu` (Shazeer 2020): silu(gate) * up, where silu(g) = g sigmoid(g). */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";

/** @see Kernels.swiglu */
export function swiglu(gate_RF: tf.Tensor2D, up_RF: tf.Tensor2D): tf.Tensor2D {
  return differentiable<tf.Tensor2D>(
    [gate_RF, up_RF],
    [gate_RF, up_RF],
    () => tf.mul<tf.Tensor2D>(tf.mul(gate_RF, tf.sigmoid(gate_RF)), up_RF),
    (dy, saved) => {
      const gate = savedAt<tf.Tensor2D>(saved, 0);
      const up = savedAt<tf.Tensor2D>(saved, 1);
      const s = tf.sigmoid(gate);
      const silu = tf.mul(gate, s);
      // silu'(g) = s + silu(g) (1 - s)
      const slope = tf.add(s, tf.mul(silu, tf.sub(1, s)));
      return [tf.mul(tf.mul(dy, up), slope), tf.mul(dy, silu)];
    },
  );
}
