/**
 * Products with weights in panels: a row has the same bytes whatever number of rows it is computed with, by whatever
 * parts, with weights in 32 bits and in 16; and they are the bytes of `linear` of the wasm kernels.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../../src/engine/backends/tfjsRuntime.ts";
import { loadInferenceKernels } from "../../../../src/engine/kernels/inference/module.ts";
import { PanelPacker, PanelProducts, panelScratchFloats } from "../../../../src/engine/kernels/inference/panels.ts";
import { SharedHeap } from "../../../../src/engine/kernels/inference/sharedHeap.ts";
import { createWasmKernels } from "../../../../src/engine/kernels/wasm/createWasmKernels.ts";
import { seededStream } from "../../../../src/ops/rng.ts";
import { inferenceBuildCases } from "./builds.ts";

await activateTfjs("wasm");

/** Each number of groups up to four, with and without a rest, and more rows than one call takes. */
const rowCounts = [...Array.from({ length: 25 }, (_, i) => i + 1), 48, 96, 97, 193];
/** Of [outputs, inputs]: less than a panel, no multiple of one, odd depths on either side of a block and of a turn. */
const matrixShapes = [
  [3, 1],
  [37, 33],
  [16, 256],
  [150, 599],
] as const;

for (const { name, variant, avx512, skip } of inferenceBuildCases) {
  describe(`products with panels, ${name}`, { skip }, () => {
    for (const [outputs, inputs] of matrixShapes) {
      test(`${outputs} outputs of ${inputs} inputs: the bytes of linear, in any company`, async () => {
        const [heap, training] = [new SharedHeap(), await createWasmKernels({ variant })];
        const c = await loadInferenceKernels(variant, heap.memory, avx512);
        const most = Math.max(...rowCounts);
        const x = seededStream(1, "x").fillNormal(new Float32Array(most * inputs), 1);
        const weights = halves(seededStream(2, "w").fillNormal(new Float32Array(outputs * inputs), 1));
        const packer = new PanelPacker(heap, c);
        const products = new PanelProducts(c, null, heap.take(panelScratchFloats(c, inputs, false) * 4));
        const panels = Math.ceil(outputs / products.width);
        const from = { at: packer.vector(x), stride: inputs };
        const to = { at: heap.take(most * panels * products.width * 4), stride: panels * products.width };
        const wanted = tf.tidy(() => {
          const linear = training.linear(tf.tensor2d(x, [most, inputs]), tf.tensor2d(weights, [outputs, inputs]));
          return linear.dataSync() as Float32Array;
        });
        const bits = Uint16Array.from(new Uint32Array(weights.buffer), (word) => word >>> 16);
        for (const values of [weights, bits]) {
          const matrix = { ...packer.matrix(values, outputs, inputs), bias: 0 };
          for (const rows of rowCounts) {
            // The last rows, so that a row is at another place in each company; in two parts where there are panels.
            const first = most - rows;
            const own = { at: from.at + first * inputs * 4, stride: inputs };
            const rowsIn = products.inputs(rows, own);
            const cut = Math.floor(panels / 2);
            if (cut > 0) products.part(rowsIn, matrix, to, 0, cut);
            products.part(rowsIn, matrix, to, cut, panels - cut);
            const got = new Float32Array(heap.memory.buffer, to.at, rows * to.stride);
            for (let row = 0; row < rows; row++) {
              assert.deepEqual(
                got.slice(row * to.stride, row * to.stride + outputs),
                wanted.slice((first + row) * outputs, (first + row + 1) * outputs),
                `row ${first + row} among ${rows}, ${matrix.wide ? 32 : 16} bits`,
              );
            }
          }
        }
      });
    }
  });
}

/** @returns the numbers cut to those that bfloat16 holds. */
function halves(values: Float32Array): Float32Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) bits[i]! &= 0xffff0000;
  return values;
}
