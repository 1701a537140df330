/**
 * What evaluation and resuming rest on: a row of `linear` and a query of `causalAttention` come out with the same
 * bytes whatever is computed beside them, and everything comes out with the same bytes when done again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { createWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import { sample } from "./kernelContract.ts";

await activateTfjs("wasm");

function random<T extends tf.Tensor>(shape: number[], seed: number): T {
  const size = shape.reduce((a, b) => a * b);
  return tf.tensor(Float32Array.from(sample(size, seed)), shape) as T;
}

/** The bytes of a tensor, dropped thereafter; compared as such, so that -0 is not 0. */
function bytes(tensor: tf.Tensor): Buffer {
  const values = tensor.dataSync();
  tensor.dispose();
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

test(
  "relaxed and relaxed256 give the same bytes, so that a trial may choose between them",
  {
    skip: variantRuns("relaxed256") ? false : "this JavaScript engine has no 256-bit vectors",
  },
  async () => {
    const [q, k] = [random<tf.Tensor4D>([2, 130, 4, 18], 1), random<tf.Tensor4D>([2, 130, 2, 18], 2)];
    const [w, head] = [random<tf.Tensor2D>([72, 72], 3), random<tf.Tensor2D>([77, 72], 4)];
    const gain = random<tf.Tensor1D>([72], 5);
    const targets = tf.tensor1d(
      Array.from({ length: 260 }, (_, i) => i % 77),
      "int32",
    );
    const runs = await Promise.all(
      (["relaxed", "relaxed256"] as const).map((variant) => createWasmKernels({ variant })),
    );
    const [narrow, wide] = runs.map((kernels) =>
      tf.tidy(() => {
        const loss = (...[a, b, c, h, g]: tf.Tensor[]): tf.Tensor => {
          const seen = kernels.causalAttention(a as tf.Tensor4D, b as tf.Tensor4D, b as tf.Tensor4D, 0);
          const x = kernels.rmsNorm(tf.reshape(seen, [260, 72]), g as tf.Tensor1D, 1e-5);
          const gated = kernels.swiglu(kernels.linear(x, c as tf.Tensor2D), x);
          return kernels.crossEntropy(gated, h as tf.Tensor2D, targets);
        };
        const { value, grads } = tf.valueAndGrads(loss)([q, k, w, head, gain]);
        return Buffer.concat([value, ...grads].map(bytes));
      }),
    );
    assert.ok(narrow!.equals(wide!));
    tf.dispose([q, k, w, head, gain, targets]);
  },
);

for (const variant of kernelVariants.filter(variantRuns)) {
  const made = createWasmKernels({ variant });

  test(`${variant}: a row of linear has the same bytes alone and among 1 to 140 others`, async () => {
    const { linear } = await made;
    for (const [inputs, outputs] of [
      [300, 13],
      [64, 530],
      [7, 3],
      [1030, 40],
    ] as const) {
      const w = random<tf.Tensor2D>([outputs, inputs], 1);
      const x = random<tf.Tensor2D>([141, inputs], 2);
      const whole = bytes(linear(x, w));
      for (const rows of [1, 2, 3, 4, 5, 7, 8, 9, 12, 130]) {
        for (const first of [0, 1, 11]) {
          const part = tf.slice(x, [first, 0], [rows, inputs]);
          const wanted = whole.subarray(first * outputs * 4, (first + rows) * outputs * 4);
          assert.ok(bytes(linear(part, w)).equals(wanted), `${inputs} -> ${outputs}, ${rows} rows from ${first}`);
          part.dispose();
        }
      }
      tf.dispose([w, x]);
    }
  });

  test(`${variant}: a query has the same bytes in a prefill, in any chunk of it, and decoded alone`, async () => {
    const { causalAttention } = await made;
    for (const [heads, kvHeads, headDim] of [
      [4, 2, 16],
      [3, 1, 7],
      [5, 5, 70],
    ] as const) {
      const length = 150;
      const q = random<tf.Tensor4D>([1, length, heads, headDim], 1);
      const k = random<tf.Tensor4D>([1, length + 9, kvHeads, headDim], 2);
      const v = random<tf.Tensor4D>([1, length + 9, kvHeads, headDim], 3);
      const whole = bytes(causalAttention(q, k, v, 0));
      const rowBytes = heads * headDim * 4;
      for (const chunk of [1, 3, 4, 5, 66]) {
        for (const offset of [0, 2, 61, 64, 83]) {
          const part = tf.slice(q, [0, offset, 0, 0], [1, chunk, heads, headDim]);
          const wanted = whole.subarray(offset * rowBytes, (offset + chunk) * rowBytes);
          const got = bytes(causalAttention(part, k, v, offset));
          assert.ok(got.equals(wanted), `${heads} heads of ${headDim}, ${chunk} queries at ${offset}`);
          part.dispose();
        }
      }
      tf.dispose([q, k, v]);
    }
  });

  test(`${variant}: a sequence's attention has the same bytes alone and in a batch`, async () => {
    const { causalAttention } = await made;
    const [q, k, v] = [1, 2, 3].map((seed) => random<tf.Tensor4D>([3, 70, 2, 12], seed)) as [
      tf.Tensor4D,
      tf.Tensor4D,
      tf.Tensor4D,
    ];
    const whole = bytes(causalAttention(q, k, v, 0));
    for (let b = 0; b < 3; b++) {
      const alone = tf.tidy(() => {
        const own = (t: tf.Tensor4D): tf.Tensor4D => tf.slice(t, [b, 0, 0, 0], [1, 70, 2, 12]);
        return causalAttention(own(q), own(k), own(v), 0);
      });
      assert.ok(bytes(alone).equals(whole.subarray((b * whole.length) / 3, ((b + 1) * whole.length) / 3)));
    }
    tf.dispose([q, k, v]);
  });

  test(`${variant}: keys and values that a query may not see do not touch it, were they NaN`, async () => {
    const { causalAttention } = await made;
    const [q, k, v] = [1, 2, 3].map((seed) => random<tf.Tensor4D>([1, 80, 2, 8], seed)) as [
      tf.Tensor4D,
      tf.Tensor4D,
      tf.Tensor4D,
    ];
    const whole = bytes(causalAttention(q, k, v, 0));
    for (const seen of [1, 2, 3, 63, 64, 66]) {
      const spoil = (t: tf.Tensor4D): tf.Tensor4D =>
        tf.tidy(() => {
          const kept = tf.slice(t, [0, 0, 0, 0], [1, seen, 2, 8]);
          return tf.concat([kept, tf.fill<tf.Rank.R4>([1, 80 - seen, 2, 8], NaN)], 1);
        });
      const [badK, badV] = [spoil(k), spoil(v)];
      const got = bytes(causalAttention(q, badK, badV, 0));
      assert.ok(got.subarray(0, seen * 64).equals(whole.subarray(0, seen * 64)), `${seen} keys are sound`);
      tf.dispose([badK, badV]);
    }
    tf.dispose([q, k, v]);
  });

  test(`${variant}: gradients have the same bytes on every run, in a fresh instance too`, async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => random<tf.Tensor4D>([2, 70, 2, 12], seed)) as [
      tf.Tensor4D,
      tf.Tensor4D,
      tf.Tensor4D,
    ];
    const head = random<tf.Tensor2D>([31, 24], 4);
    const targets = tf.tensor1d(
      Array.from({ length: 140 }, (_, i) => i % 31),
      "int32",
    );
    const runs = [await made, await made, await createWasmKernels({ variant })].map((kernels) =>
      tf.tidy(() => {
        const loss = (...[a, b, c, w]: tf.Tensor[]): tf.Tensor => {
          const out = kernels.causalAttention(a as tf.Tensor4D, b as tf.Tensor4D, c as tf.Tensor4D, 0);
          return kernels.crossEntropy(tf.reshape(out, [140, 24]), w as tf.Tensor2D, targets);
        };
        const { value, grads } = tf.valueAndGrads(loss)([q, k, v, head]);
        return Buffer.concat([value, ...grads].map(bytes));
      }),
    );
    assert.ok(runs[0]!.equals(runs[1]!) && runs[0]!.equals(runs[2]!));
    tf.dispose([q, k, v, head, targets]);
  });
}
