/**
 * Both families of the WebGPU kernels give a row of a product, and a query of an attention, the same bits alone and in
 * any company, although other programs compute few rows than many.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { createWebgpuKernels } from "../../../src/engine/kernels/webgpu/createWebgpuKernels.ts";
import { missingGpu, missingHalf } from "../../helpers/gpu.ts";
import { sample } from "./kernelContract.ts";

const missing = await missingGpu();
const noHalf = missing ?? (await missingHalf());

async function bitsOf(make: () => tf.Tensor): Promise<Float32Array> {
  const tensor = tf.tidy(make);
  const values = (await tensor.data()) as Float32Array;
  tensor.dispose();
  return values;
}

function tensorOf<T extends tf.Tensor>(shape: number[], seed: number): T {
  const size = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(Float32Array.from(sample(size, seed)), shape) as T;
}

/** Products of a width that is no multiple of anything and of one that is, with and without a bias. */
async function checkRows(kernels: Kernels): Promise<void> {
  for (const [inputs, outputs] of [
    [77, 35],
    [192, 128],
  ] as const) {
    const [x, w] = [tensorOf<tf.Tensor2D>([130, inputs], 1), tensorOf<tf.Tensor2D>([outputs, inputs], 2)];
    const bias = tensorOf<tf.Tensor1D>([outputs], 3);
    for (const added of [undefined, bias]) {
      const all = await bitsOf(() => kernels.linear(x, w, added));
      for (const [first, rows] of [
        [0, 1],
        [129, 1],
        [3, 2],
        [5, 3],
        [64, 4],
        [60, 5],
        [7, 17],
        [1, 70],
      ] as const) {
        // prettier-ignore
        const some = await bitsOf(() => kernels.linear(tf.slice(x, [first, 0], [rows, inputs]), w, added));
        assert.deepEqual(some, all.slice(first * outputs, (first + rows) * outputs), `${rows} rows from ${first}`);
      }
    }
    tf.dispose([x, w, bias]);
  }
}

/** Queries of 400 positions, so that a decoded one takes its keys in several chunks. */
async function checkQueries(kernels: Kernels): Promise<void> {
  for (const headDim of [12, 32]) {
    const [length, heads, keyHeads] = [400, 4, 2];
    // Large scores, so that the maximum rises often and weights are far apart.
    const q = tf.mul<tf.Tensor4D>(tensorOf<tf.Tensor4D>([1, length, heads, headDim], 4), 3);
    const [k, v] = [5, 6].map((seed) => tensorOf<tf.Tensor4D>([1, length, keyHeads, headDim], seed)) as [
      tf.Tensor4D,
      tf.Tensor4D,
    ];
    const all = await bitsOf(() => kernels.causalAttention(q, k, v, 0));
    const row = heads * headDim;
    for (const [first, count] of [
      [399, 1],
      [0, 1],
      [255, 2],
      [256, 1],
      [300, 8],
      [37, 9],
      [320, 70],
    ] as const) {
      // prettier-ignore
      const some = await bitsOf(() =>
        kernels.causalAttention(tf.slice(q, [0, first, 0, 0], [1, count, heads, headDim]), k, v, first),
      );
      assert.deepEqual(some, all.slice(first * row, (first + count) * row), `${count} queries from ${first}`);
    }
    tf.dispose([q, k, v]);
  }
}

for (const family of ["tiles", "lanes"] as const) {
  for (const f16 of [false, true]) {
    const skip = (f16 ? noHalf : missing) ?? false;
    const title = `webgpu/${family}${f16 ? "-f16" : ""}`;
    test(`${title}: a row and a query have the same bits alone and in any company`, { skip }, async (t) => {
      await activateTfjs("webgpu");
      const kernels = await createWebgpuKernels({ family, f16 }).catch((error: Error) => error);
      if (kernels instanceof Error) return t.skip(kernels.message);
      await checkRows(kernels);
      if (!f16) await checkQueries(kernels);
    });
  }
}
