/**
 * Shapes that cross the edges of the blocks in which the wasm kernels work (256 steps of a sum, 128 rows, 512
 * columns, 64 keys, 32 queries, 256 rows of logits), and random ones: values and gradients against float64.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import fc from "fast-check";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { createWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import { assertClose, sample } from "./kernelContract.ts";
import type { AttentionSizes, Values } from "./kernelTruth.ts";
import { attentionTruth, crossEntropyTruth, linearTruth, swigluTruth } from "./kernelTruth.ts";
import { attentionGradients, crossEntropyGradients, linearGradients } from "./wasmGradientTruth.ts";

/** Float32 against float64, relative to the largest value; sums here have up to 600 terms of order 1. */
const tolerance = 1e-5;
const randomRuns = { numRuns: 40, seed: 20261123 };

await activateTfjs("wasm");

function tensor(values: Values, shape: number[]): tf.Tensor {
  return tf.tensor(Float32Array.from(values), shape);
}

/** Value and gradients of `compute` on the heap, against `value` and `gradients`. */
function compare(
  what: string,
  inputs: tf.Tensor[],
  compute: (...inputs: tf.Tensor[]) => tf.Tensor,
  dy: tf.Tensor,
  value: Values,
  gradients: Values[],
): void {
  const result = tf.tidy(() => tf.valueAndGrads(compute)(inputs, dy));
  assertClose(result.value.dataSync(), value, tolerance, `${what}: value`);
  result.grads.forEach((grad, i) => assertClose(grad.dataSync(), gradients[i]!, tolerance, `${what}: gradient ${i}`));
  tf.dispose([...inputs, dy, result.value, ...result.grads]);
}

function checkLinear(kernels: Kernels, r: number, i: number, o: number): void {
  const [x, w, dy] = [sample(r * i, 1), sample(o * i, 2), sample(r * o, 3)];
  const inputs = [tensor(x, [r, i]), tensor(w, [o, i])];
  const compute = (a: tf.Tensor, b: tf.Tensor): tf.Tensor => kernels.linear(a as tf.Tensor2D, b as tf.Tensor2D);
  const value = linearTruth(x, w, null, r, i, o);
  compare(`${r}x${i} -> ${o}`, inputs, compute, tensor(dy, [r, o]), value, linearGradients(x, w, dy, r, i, o));
}

function checkAttention(kernels: Kernels, z: AttentionSizes): void {
  const [query, key] = [
    [z.batch, z.queries, z.heads, z.headDim],
    [z.batch, z.keys, z.kvHeads, z.headDim],
  ];
  const size = (shape: number[]): number => shape.reduce((a, b) => a * b);
  const [q, k, v, dy] = [sample(size(query), 1), sample(size(key), 2), sample(size(key), 3), sample(size(query), 4)];
  const inputs = [tensor(q, query), tensor(k, key), tensor(v, key)];
  const compute = (...t: tf.Tensor[]): tf.Tensor =>
    kernels.causalAttention(t[0] as tf.Tensor4D, t[1] as tf.Tensor4D, t[2] as tf.Tensor4D, 0);
  const gradients = attentionGradients(q, k, v, dy, z);
  compare(JSON.stringify(z), inputs, compute, tensor(dy, query), attentionTruth(q, k, v, z), gradients);
}

function checkCrossEntropy(kernels: Kernels, r: number, d: number, v: number): void {
  const [x, head] = [sample(r * d, 1), sample(v * d, 2)];
  const targets = Array.from({ length: r }, (_, i) => (i % 9 === 4 ? -1 : (i * 7) % v));
  const inputs = [tensor(x, [r, d]), tensor(head, [v, d])];
  const ids = tf.tensor1d(targets, "int32");
  const compute = (a: tf.Tensor, b: tf.Tensor): tf.Tensor =>
    kernels.crossEntropy(a as tf.Tensor2D, b as tf.Tensor2D, ids);
  const value = crossEntropyTruth(x, head, targets, d);
  const gradients = crossEntropyGradients(x, head, targets, d, 0.25);
  compare(`${r} rows, ${d} -> ${v}`, inputs, compute, tf.scalar(0.25), value, gradients);
  ids.dispose();
}

function attention(batch: number, length: number, heads: number, kvHeads: number, headDim: number): AttentionSizes {
  return { batch, queries: length, keys: length, heads, kvHeads, headDim, offset: 0 };
}

for (const variant of kernelVariants.filter(variantRuns)) {
  const made = createWasmKernels({ variant });

  test(`${variant}: linear is right across the edges of its blocks`, async () => {
    const kernels = await made;
    for (const [r, i, o] of [
      [9, 257, 3],
      [130, 5, 9],
      [2, 600, 515],
      [133, 515, 21],
      [11, 9, 521],
    ]) {
      checkLinear(kernels, r!, i!, o!);
    }
  });

  test(`${variant}: causalAttention is right across the edges of its blocks, any head size, any grouping`, async () => {
    const kernels = await made;
    checkAttention(kernels, attention(1, 64, 2, 2, 8));
    checkAttention(kernels, attention(2, 65, 2, 1, 7));
    checkAttention(kernels, attention(1, 131, 3, 1, 72));
    checkAttention(kernels, attention(1, 200, 1, 1, 1));
  });

  test(`${variant}: crossEntropy is right across the edges of its blocks`, async () => {
    const kernels = await made;
    checkCrossEntropy(kernels, 258, 9, 31);
    checkCrossEntropy(kernels, 5, 300, 1030);
  });

  test(`${variant}: random shapes of the blocked kernels`, async () => {
    const kernels = await made;
    const size = fc.integer({ min: 1, max: 40 });
    fc.assert(
      fc.property(size, size, size, (r, i, o) => checkLinear(kernels, r, i, o)),
      randomRuns,
    );
    fc.assert(
      fc.property(size, size, size, (r, d, v) => checkCrossEntropy(kernels, r, d, v)),
      randomRuns,
    );
    const few = fc.integer({ min: 1, max: 3 });
    const length = fc.integer({ min: 1, max: 90 });
    const shape = fc.record({ b: few, length, group: few, kv: few, h: fc.integer({ min: 1, max: 12 }) });
    const check = (z: { b: number; length: number; group: number; kv: number; h: number }): void =>
      checkAttention(kernels, attention(z.b, z.length, z.group * z.kv, z.kv, z.h));
    fc.assert(fc.property(shape, check), randomRuns);
  });

  test(`${variant}: the exponential is right to 3 units in the last place, from overflow to underflow`, async () => {
    const kernels = await made;
    const x = Float64Array.from({ length: 4001 }, (_, i) => Math.fround((i - 2000) / 23));
    const ones = new Float64Array(x.length).fill(1);
    const wanted = swigluTruth(x, ones);
    const shape: [number, number] = [1, x.length];
    const y = tf.tidy(() => kernels.swiglu(tensor(x, shape) as tf.Tensor2D, tensor(ones, shape) as tf.Tensor2D));
    y.dataSync().forEach((got, i) => {
      const limit = 3 * 2 ** -23 * Math.abs(wanted[i]!) + 1e-37;
      assert.ok(Math.abs(got - wanted[i]!) <= limit, `silu(${x[i]}) = ${got}, wanted ${wanted[i]}`);
    });
    y.dispose();
  });
}
