/** A cache that is written in place holds what one that is copied holds, and touches nothing else. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { KvCache } from "../../../src/engine/model/kvCache.ts";

await activateTfjs("wasm");
const { kernels } = await kernelsFor("wasm");
const [heads, headDim, batch] = [3, 4, 2];

/** Positions first .. first + count - 1 of two sequences: each element tells where it belongs. */
function positions(first: number, count: number): tf.Tensor4D {
  const size = heads * headDim;
  return tf.tensor4d(
    Float32Array.from(
      { length: batch * count * size },
      (_, i) => Math.floor(i / (count * size)) * 1e6 + first * size + (i % (count * size)),
    ),
    [batch, count, heads, headDim],
  );
}

test("pieces of any length, over growth and truncation, leave the same positions in place and by copy", () => {
  const [inPlace, copied] = [new KvCache(1), new KvCache(1)];
  const before = tf.memory().numTensors;
  for (const [truncate, count] of [
    [0, 3],
    [3, 1],
    [4, 60],
    [64, 1],
    [65, 1],
    [40, 5],
    [45, 90],
    [135, 1],
    [0, 2],
  ] as const) {
    const [k, v] = [positions(truncate, count), positions(truncate + 7, count)];
    const held = [inPlace, copied].map((cache, i) => {
      cache.truncate(truncate);
      const { k_1SKH, v_1SKH } = cache.append(0, k, v, 1, i === 0 ? kernels : {});
      cache.advance(count);
      const used = cache.length * heads * headDim;
      return [k_1SKH, v_1SKH].map((tensor) => tensor.dataSync().slice(0, used));
    });
    assert.deepEqual(held[0], held[1], `${count} positions at ${truncate}`);
    tf.dispose([k, v]);
  }
  inPlace.dispose();
  copied.dispose();
  assert.equal(tf.memory().numTensors, before, "no tensor is left over");
});

test("writing in place refuses what does not fit and bytes that somebody else holds", () => {
  const write = kernels.writePositions!;
  const [target, source] = [tf.zeros([1, 5, heads, headDim]) as tf.Tensor4D, positions(0, 3)];
  assert.throws(() => write(target, 3, source, 0), /3 positions of sequence 0 of 2 at 3 do not fit 5/);
  assert.throws(() => write(target, 0, source, 2), /sequence 2 of 2/);
  const other = tf.clone(target);
  assert.throws(() => write(target, 0, source, 0), /another tensor shares/);
  other.dispose();
  write(target, 2, source, 1);
  const [values, wanted] = [target.dataSync(), source.dataSync()];
  assert.deepEqual(values.slice(0, 2 * heads * headDim), new Float32Array(2 * heads * headDim));
  assert.deepEqual(values.slice(2 * heads * headDim), wanted.slice(3 * heads * headDim));
  tf.dispose([target, source]);
});
