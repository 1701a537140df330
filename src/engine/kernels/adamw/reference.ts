/**
 * Reference of `adamw`: Adam with decoupled weight decay (Loshchilov & Hutter 2019), in the order of
 * operations of torch.optim.AdamW, so that trajectories can be compared.
 */
import * as tf from "@tensorflow/tfjs";
import type { AdamwStep } from "../kernels.ts";

/** @see Kernels.adamw */
export function adamw(weight: tf.Variable, grad: tf.Tensor, m: tf.Variable, v: tf.Variable, step: AdamwStep): void {
  const { learningRate, beta1, beta2, eps, weightDecay, gradScale } = step;
  const correction1 = 1 - beta1 ** step.step;
  const correction2 = 1 - beta2 ** step.step;
  tf.tidy(() => {
    const g = tf.mul(grad, gradScale);
    m.assign(tf.add(tf.mul(m, beta1), tf.mul(g, 1 - beta1)));
    v.assign(tf.add(tf.mul(v, beta2), tf.mul(tf.square(g), 1 - beta2)));
    const denominator = tf.add(tf.div(tf.sqrt(v), Math.sqrt(correction2)), eps);
    const decayed = tf.mul(weight, 1 - learningRate * weightDecay);
    weight.assign(tf.sub(decayed, tf.mul(tf.div(m, denominator), learningRate / correction1)));
  });
}
