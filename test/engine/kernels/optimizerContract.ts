/** The part of the kernel contract about updates in place and the gradient's norm. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { assertClose, sample } from "./kernelContract.ts";
import type { AdamwTruth } from "./kernelTruth.ts";
import { adamwTruth, linearTruth } from "./kernelTruth.ts";

const updates = 5;

/** @param tolerance of products, relative to the largest value; updates are held to float32's */
export function optimizerContract(title: string, kernels: () => Promise<Kernels>, tolerance: number): void {
  for (const shape of [[1], [7, 5], [33, 65]]) {
    for (const weightDecay of [0, 0.1]) {
      test(`${title}: adamw makes ${updates} updates of ${shape.join("x")} as defined, decay ${weightDecay}, in place`, async () => {
        await checkAdamw(await kernels(), shape, weightDecay);
      });
    }
  }

  test(`${title}: a linear after adamw sees the new weights, not a copy made before`, async () => {
    const k = await kernels();
    const before = tf.memory().numTensors;
    const [rows, inputs, outputs] = [9, 12, 10];
    const x = tf.tensor2d(Float32Array.from(sample(rows * inputs, 1)), [rows, inputs]);
    const w = tf.tidy(() =>
      tf.variable(tf.tensor2d(Float32Array.from(sample(outputs * inputs, 2)), [outputs, inputs]), true),
    );
    const m = tf.tidy(() => tf.variable(tf.zerosLike(w), false));
    const v = tf.tidy(() => tf.variable(tf.zerosLike(w), false));
    const value = (): tf.Tensor2D => k.linear(x, w as unknown as tf.Tensor2D);
    const both = (): { value: tf.Tensor; grads: tf.Tensor[] } =>
      tf.valueAndGrads((a: tf.Tensor, b: tf.Tensor) => tf.sum(tf.square(k.linear(a as tf.Tensor2D, b as tf.Tensor2D))))(
        [x, w],
      );
    tf.dispose(tf.tidy(value));
    tf.dispose(tf.tidy(() => both().grads));
    const grad = tf.tensor2d(Float32Array.from(sample(outputs * inputs, 3)), [outputs, inputs]);
    k.adamw(w, grad, m, v, {
      learningRate: 0.5,
      beta1: 0.9,
      beta2: 0.99,
      eps: 1e-8,
      weightDecay: 0,
      gradScale: 1,
      step: 1,
    });
    const now = Float64Array.from(await w.data());
    const xs = sample(rows * inputs, 1);
    const wanted = linearTruth(xs, now, null, rows, inputs, outputs);
    const y = tf.tidy(value);
    assertClose(await y.data(), wanted, tolerance, "linear");
    const grads = tf.tidy(() => both().grads);
    const dx = new Float64Array(rows * inputs);
    for (let r = 0; r < rows; r++) {
      for (let o = 0; o < outputs; o++) {
        for (let i = 0; i < inputs; i++) dx[r * inputs + i]! += 2 * wanted[r * outputs + o]! * now[o * inputs + i]!;
      }
    }
    assertClose(await grads[0]!.data(), dx, 5 * tolerance, "gradient of x");
    tf.dispose([x, w, m, v, grad, y, ...grads]);
    assert.equal(tf.memory().numTensors, before, "no tensor is left over");
  });

  test(`${title}: sumOfSquares adds up all elements of all tensors, and is 0 for none`, async () => {
    const k = await kernels();
    const before = tf.memory().numTensors;
    const parts = [1, 77, 1001].map((size, i) => sample(size, i + 20));
    const tensors = parts.map((part) => tf.tensor1d(Float32Array.from(part)));
    const wanted = parts.reduce((sum, part) => sum + part.reduce((s, x) => s + x * x, 0), 0);
    const got = await k.sumOfSquares(tensors);
    assert.ok(Math.abs(got - wanted) <= 1e-6 * wanted, `${got}, wanted ${wanted}`);
    assert.equal(await k.sumOfSquares(tensors), got, "the same number again");
    assert.equal(await k.sumOfSquares([]), 0);
    tf.dispose(tensors);
    assert.equal(tf.memory().numTensors, before);
  });
}

async function checkAdamw(k: Kernels, shape: number[], weightDecay: number): Promise<void> {
  const size = shape.reduce((a, b) => a * b, 1);
  const before = tf.memory().numTensors;
  let truth: AdamwTruth = { w: sample(size, 1), m: new Float64Array(size), v: new Float64Array(size) };
  const w = tf.tidy(() => tf.variable(tf.tensor(Float32Array.from(truth.w), shape), true));
  const m = tf.tidy(() => tf.variable(tf.zeros(shape), false));
  const v = tf.tidy(() => tf.variable(tf.zeros(shape), false));
  for (let step = 1; step <= updates; step++) {
    const options = {
      learningRate: 0.02 * step,
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-8,
      weightDecay,
      gradScale: 0.37,
      step,
    };
    const values = sample(size, step + 10);
    const grad = tf.tensor(Float32Array.from(values), shape);
    k.adamw(w, grad, m, v, options);
    assert.deepEqual(await grad.data(), Float32Array.from(values), "the gradient is left alone");
    grad.dispose();
    truth = adamwTruth(truth, values, options);
  }
  assertClose(await w.data(), truth.w, 2e-5, "weight");
  assertClose(await m.data(), truth.m, 2e-6, "first moment");
  assertClose(await v.data(), truth.v, 2e-6, "second moment");
  tf.dispose([w, m, v]);
  assert.equal(tf.memory().numTensors, before, "no tensor is left over");
}
