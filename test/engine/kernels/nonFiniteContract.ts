/**
 * The part of the kernel contract about NaN and infinity: a fast path must not swallow them (divergence is
 * found by them), and must not spread them to rows that have nothing to do with them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { sample } from "./kernelContract.ts";

/** A [rows, columns] tensor of ordinary numbers but for one element. */
function withOne(rows: number, columns: number, at: number, value: number, seed = 5): tf.Tensor2D {
  const values = Float32Array.from(sample(rows * columns, seed));
  if (at >= 0) values[at] = value;
  return tf.tensor2d(values, [rows, columns]);
}

async function rowsOf(result: tf.Tensor, columns: number): Promise<number[][]> {
  const values = Array.from(await result.data());
  result.dispose();
  return Array.from({ length: values.length / columns }, (_, r) => values.slice(r * columns, (r + 1) * columns));
}

/** Which rows hold anything that is not finite. */
function marked(rows: number[][]): boolean[] {
  return rows.map((row) => row.some((value) => !Number.isFinite(value)));
}

export function nonFiniteContract(title: string, kernels: () => Promise<Kernels>): void {
  for (const bad of [NaN, Infinity]) {
    test(`${title}: linear, rmsNorm, rope, swiglu and embedding carry ${bad} through in its own row only`, async () => {
      const k = await kernels();
      const before = tf.memory().numTensors;
      const only = [false, true, false];
      const linear = tf.tidy(() => k.linear(withOne(3, 9, 11, bad), withOne(11, 9, -1, 0)));
      assert.deepEqual(marked(await rowsOf(linear, 11)), only, "linear");
      const norm = tf.tidy(() => k.rmsNorm(withOne(3, 9, 11, bad), tf.ones([9]), 1e-5));
      assert.deepEqual(marked(await rowsOf(norm, 9)), only, "rmsNorm");
      const rope = tf.tidy(() => {
        const tables = { cos: tf.fill<tf.Rank.R2>([3, 4], 0.5), sin: tf.fill<tf.Rank.R2>([3, 4], 0.5) };
        return k.rope(withOne(3, 8, 11, bad).reshape([1, 3, 1, 8]), tables);
      });
      assert.deepEqual(marked(await rowsOf(rope, 8)), only, "rope");
      const glu = tf.tidy(() => k.swiglu(withOne(3, 9, 11, bad), withOne(3, 9, -1, 0, 6)));
      assert.deepEqual(marked(await rowsOf(glu, 9)), only, "swiglu");
      const embedded = tf.tidy(() => k.embedding(tf.tensor1d([0, 1, 2], "int32"), withOne(3, 9, 11, bad)));
      assert.deepEqual(marked(await rowsOf(embedded, 9)), only, "embedding");
      assert.equal(tf.memory().numTensors, before);
    });
  }

  test(`${title}: linear by a weight that holds NaN or infinity spoils that output, forward and back`, async () => {
    const k = await kernels();
    for (const bad of [NaN, Infinity]) {
      const y = tf.tidy(() => k.linear(withOne(3, 9, -1, 0), withOne(11, 9, 20, bad)));
      for (const row of await rowsOf(y, 11)) {
        assert.deepEqual(
          row.map(Number.isFinite),
          Array.from({ length: 11 }, (_, o) => o !== 2),
        );
      }
      const dx = tf.tidy(() => {
        const w = withOne(11, 9, 20, bad);
        return tf.grad((x: tf.Tensor) => k.linear(x as tf.Tensor2D, w))(withOne(3, 9, -1, 0));
      });
      for (const row of await rowsOf(dx, 9)) assert.ok(!Number.isFinite(row[2]));
    }
  });

  test(`${title}: attention carries NaN of a query, and of a key to the queries that see it`, async () => {
    const k = await kernels();
    const run = (q: number, key: number): tf.Tensor =>
      tf.tidy(() => {
        const shape: [number, number, number, number] = [1, 5, 1, 4];
        return k.causalAttention(
          withOne(5, 4, q, NaN).reshape(shape),
          withOne(5, 4, key, NaN, 6).reshape(shape),
          withOne(5, 4, -1, 0, 7).reshape(shape),
          0,
        );
      });
    assert.deepEqual(marked(await rowsOf(run(9, -1), 4)), [false, false, true, false, false]);
    assert.deepEqual(marked(await rowsOf(run(-1, 9), 4)), [false, false, true, true, true]);
  });

  test(`${title}: keys and values behind the last query's position are never read`, async () => {
    const k = await kernels();
    const y = tf.tidy(() => {
      const cache = withOne(7, 4, -1, 0)
        .concat(tf.fill([3, 4], NaN))
        .reshape([1, 10, 1, 4]) as tf.Tensor4D;
      return k.causalAttention(withOne(2, 4, -1, 0, 8).reshape([1, 2, 1, 4]), cache, cache, 5);
    });
    assert.deepEqual(marked(await rowsOf(y, 4)), [false, false]);
  });

  test(`${title}: crossEntropy is NaN when a row that counts is, and its gradient too`, async () => {
    const k = await kernels();
    const targets = (): tf.Tensor1D => tf.tensor1d([1, 2, 0], "int32");
    const loss = tf.tidy(() => k.crossEntropy(withOne(3, 6, 8, NaN), withOne(5, 6, -1, 0), targets()));
    assert.ok(Number.isNaN((await loss.data())[0]));
    loss.dispose();
    const dx = tf.tidy(() => {
      const head = withOne(5, 6, -1, 0);
      return tf.grad((x: tf.Tensor) => k.crossEntropy(x as tf.Tensor2D, head, targets()))(withOne(3, 6, 8, NaN));
    });
    assert.deepEqual(marked(await rowsOf(dx, 6)), [false, true, false]);
  });

  test(`${title}: crossEntropy of logits of a thousand is finite`, async () => {
    const k = await kernels();
    const loss = tf.tidy(() => {
      const head = tf.tensor2d([1024, 1016, -1000], [3, 1]);
      return k.crossEntropy(tf.ones([1, 1]), head, tf.tensor1d([1], "int32"));
    });
    const value = (await loss.data())[0] as number;
    loss.dispose();
    assert.ok(Math.abs(value - Math.log1p(Math.exp(8))) < 1e-4, `${value}`);
  });

  test(`${title}: sumOfSquares and adamw carry NaN and infinity`, async () => {
    const k = await kernels();
    for (const bad of [NaN, Infinity]) {
      const x = withOne(3, 9, 11, bad);
      assert.ok(!Number.isFinite(await k.sumOfSquares([x])));
      const [w, m, v] = [0, 1, 2].map(() => tf.tidy(() => tf.variable(tf.zeros([3, 9])))) as [
        tf.Variable,
        tf.Variable,
        tf.Variable,
      ];
      k.adamw(w, x, m, v, {
        learningRate: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weightDecay: 0,
        gradScale: 1,
        step: 1,
      });
      assert.equal(Array.from(await w.data()).filter((value) => !Number.isFinite(value)).length, 1);
      tf.dispose([x, w, m, v]);
    }
  });
}
