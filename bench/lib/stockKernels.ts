/**
 * The model's operations as somebody would write them with tfjs and nothing else: its own matrix products (transposed
 * and batched ones included), its automatic gradients, a T x T attention, AdamW in small operations. What the
 * webgpu kernels are measured against.
 */
import * as tf from "@tensorflow/tfjs";
import type { AdamwStep, Kernels } from "../../src/engine/kernels/kernels.ts";

function attention(q_BTNH: tf.Tensor4D, k_BSKH: tf.Tensor4D, v_BSKH: tf.Tensor4D): tf.Tensor4D {
  const [, t, , h] = q_BTNH.shape;
  const [q, k, v] = [q_BTNH, k_BSKH, v_BSKH].map((x) => tf.transpose(x, [0, 2, 1, 3])) as [
    tf.Tensor4D,
    tf.Tensor4D,
    tf.Tensor4D,
  ];
  const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(h));
  const mask = tf.sub(1, tf.linalg.bandPart(tf.ones([t, t]), -1, 0));
  const shares = tf.softmax(tf.add(scores, tf.mul(mask, -1e9)));
  return tf.transpose(tf.matMul(shares, v), [0, 2, 1, 3]) as tf.Tensor4D;
}

function adamw(weight: tf.Variable, grad: tf.Tensor, m: tf.Variable, v: tf.Variable, step: AdamwStep): void {
  const { learningRate, beta1, beta2, eps, weightDecay, gradScale } = step;
  tf.tidy(() => {
    const g = tf.mul(grad, gradScale);
    m.assign(tf.add(tf.mul(m, beta1), tf.mul(g, 1 - beta1)));
    v.assign(tf.add(tf.mul(v, beta2), tf.mul(tf.square(g), 1 - beta2)));
    const mean = tf.div(m, 1 - beta1 ** step.step);
    const deviation = tf.sqrt(tf.div(v, 1 - beta2 ** step.step));
    const kept = tf.mul(weight, 1 - learningRate * weightDecay);
    weight.assign(tf.sub(kept, tf.mul(tf.div(mean, tf.add(deviation, eps)), learningRate)));
  });
}

export const stockKernels: Kernels = {
  name: "stock",
  linear: (x, w) => tf.matMul(x, w, false, true),
  embedding: (ids, table) => tf.gather(table, ids),
  rmsNorm: (x, gain, eps) => tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps))), gain),
  rope(x_BTNH, { cos, sin }) {
    const [, t, , h] = x_BTNH.shape;
    const [a, b] = tf.split(x_BTNH, 2, -1) as [tf.Tensor4D, tf.Tensor4D];
    const [c, s] = [tf.reshape(cos, [1, t, 1, h / 2]), tf.reshape(sin, [1, t, 1, h / 2])];
    return tf.concat([tf.sub(tf.mul(a, c), tf.mul(b, s)), tf.add(tf.mul(b, c), tf.mul(a, s))], -1) as tf.Tensor4D;
  },
  causalAttention: attention,
  swiglu: (gate, up) => tf.mul(tf.mul(gate, tf.sigmoid(gate)), up),
  crossEntropy(x, head, targets) {
    const logits = tf.matMul(x, head, false, true);
    const wanted = tf.oneHot(targets, head.shape[0]);
    return tf.neg(tf.sum<tf.Scalar>(tf.mul(tf.logSoftmax(logits), wanted)));
  },
  adamw,
  async sumOfSquares(tensors) {
    const sum = tf.tidy(() => tensors.map((x) => tf.sum(tf.square(x))).reduce((total, part) => tf.add(total, part)));
    const value = (await sum.data())[0] as number;
    sum.dispose();
    return value;
  },
};
