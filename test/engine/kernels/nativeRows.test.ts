/**
 * What batching and evaluation rest on, on the native kernels: without a gradient a row of `linear` has the numbers of
 * the wasm kernels, whatever goes with it, both where this machine's BLAS may be used for it and where it may not.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { withBlas } from "../../../src/engine/kernels/native/createNativeKernels.ts";
import { openBlas } from "../../../src/engine/kernels/native/blas.ts";
import type { Blas } from "../../../src/engine/kernels/native/blas.ts";
import { openWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { sample } from "./kernelContract.ts";

// The library chooses its kernels itself, whatever this machine was told.
delete process.env["OPENBLAS_CORETYPE"];
const missing = await missingBlas();
const options = { skip: missing ?? false };
await activateTfjs("wasm");

function random<T extends tf.Tensor>(shape: number[], seed: number): T {
  const size = shape.reduce((a, b) => a * b);
  return tf.tensor(Float32Array.from(sample(size, seed)), shape) as T;
}

/** Shapes of which some blocks are large enough for BLAS and some are not. */
const shapes = [
  [512, 1376],
  [1376, 512],
  [300, 700],
  [64, 4096],
  [40, 16],
] as const;
const rowCounts = [1, 3, 4, 5, 6, 9, 16, 17, 33, 70, 129];

/**
 * Compares every row count with the wasm kernels.
 * @param spoil changes what BLAS has written at an address
 * @returns the library's name, and how many products it made after its trial
 */
async function compareRows(spoil: (values: Float32Array) => void = () => undefined): Promise<[string, number]> {
  const wasm = await openWasmKernels();
  const blas = await openBlas(wasm.heap.memory);
  let products = 0;
  const counted: Blas = {
    name: blas.name,
    multiply(m, n, k, a, b, c, accumulate) {
      products++;
      blas.multiply(m, n, k, a, b, c, accumulate);
      spoil(new Float32Array(wasm.heap.memory.buffer, c, m * n));
    },
  };
  const native = withBlas(wasm, counted);
  products = 0;
  for (const [inputs, outputs] of shapes) {
    const [x, w] = [random<tf.Tensor2D>([129, inputs], 1), random<tf.Tensor2D>([outputs, inputs], 2)];
    const bias = random<tf.Tensor1D>([outputs], 3);
    const whole = wasm.kernels.linear(x, w, bias);
    const wanted = whole.dataSync();
    for (const rows of rowCounts) {
      const first = 129 - rows;
      const part = tf.slice(x, [first, 0], [rows, inputs]);
      const got = native.linear(part, w, bias);
      assert.deepEqual(got.dataSync(), wanted.slice(first * outputs), `${inputs} -> ${outputs}, ${rows} rows`);
      tf.dispose([part, got]);
    }
    tf.dispose([x, w, bias, whole]);
  }
  return [blas.name, products];
}

test("native: a row has the numbers of wasm alone and among others", options, async () => {
  const [name, products] = await compareRows();
  if (name.includes("SkylakeX")) assert.ok(products > 0, "the library for AVX-512 is used");
});

test("native: a library that rounds one number otherwise is not used without a gradient", options, async () => {
  const [, products] = await compareRows((values) => (values[3] = values[3]! * (1 + 2 ** -23)));
  assert.equal(products, 0);
});
