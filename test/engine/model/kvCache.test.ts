/** The cache of keys and values: what it holds, forgets and gives back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { KvCache } from "../../../src/engine/model/kvCache.ts";

const [heads, headDim] = [2, 3];
const perPosition = heads * headDim;

/** Positions first .. first + count - 1, each filled with its own number. */
function positions(first: number, count: number): tf.Tensor4D {
  const values = Float32Array.from({ length: count * perPosition }, (_, i) => first + Math.floor(i / perPosition));
  return tf.tensor4d(values, [1, count, heads, headDim]);
}

/** Appends to both layers and advances; gives the position numbers that layer 1 holds, tail included. */
async function append(cache: KvCache, first: number, count: number, kernels?: Kernels): Promise<number[]> {
  let held: Float32Array = new Float32Array(0);
  for (const layer of [0, 1]) {
    const added = positions(first, count);
    const { k_1SKH, v_1SKH } = cache.append(layer, added, added, 0, kernels);
    assert.deepEqual(await v_1SKH.data(), await k_1SKH.data());
    held = (await k_1SKH.data()) as Float32Array;
    added.dispose();
  }
  cache.advance(count);
  return Array.from({ length: held.length / perPosition }, (_, i) => held[i * perPosition] as number);
}

test("positions follow each other, and what is copied anyway grows in steps of 64", async () => {
  await activateTfjs("wasm");
  const before = tf.memory().numTensors;
  const cache = new KvCache(2);
  assert.deepEqual((await append(cache, 1, 3)).slice(0, 5), [1, 2, 3, 0, 0]);
  assert.equal(cache.sizeBytes, 2 * 2 * 64 * perPosition * 4);
  assert.deepEqual((await append(cache, 4, 1)).slice(0, 5), [1, 2, 3, 4, 0]);
  const full = await append(cache, 5, 60);
  assert.equal(full.length, 64);
  assert.deepEqual(
    full,
    Array.from({ length: 64 }, (_, i) => i + 1),
  );
  assert.equal((await append(cache, 65, 1)).length, 128);
  assert.equal(cache.length, 65);
  cache.dispose();
  assert.equal(cache.length, 0);
  assert.equal(tf.memory().numTensors, before, "no tensor is left over");
});

test("in place a cache grows by half, in steps of 64, and no further than it will ever hold", async () => {
  await activateTfjs("wasm");
  for (const [most, wanted] of [
    [undefined, [128, 256, 256, 448]],
    [140, [128, 192, 192, 320]],
  ] as const) {
    const { kernels } = await kernelsFor("wasm");
    const cache = new KvCache(2, most);
    const sizes: number[] = [];
    for (const count of [70, 60, 10, 120]) sizes.push((await append(cache, 1, count, kernels)).length);
    assert.deepEqual(sizes, wanted);
    cache.dispose();
  }
});

test("a cache that grows keeps what it holds", async () => {
  await activateTfjs("wasm");
  const cache = new KvCache(2);
  const { kernels } = await kernelsFor("wasm");
  await append(cache, 1, 50, kernels);
  const held = await append(cache, 51, 35, kernels);
  assert.equal(held.length, 128);
  for (let i = 0; i < 85; i++) assert.equal(held[i], 1 + i);
  cache.dispose();
});

test("what was truncated is forgotten and written over", async () => {
  await activateTfjs("wasm");
  const cache = new KvCache(2);
  await append(cache, 1, 6);
  cache.truncate(2);
  assert.equal(cache.length, 2);
  assert.deepEqual((await append(cache, 30, 2)).slice(0, 7), [1, 2, 30, 31, 0, 0, 0]);
  assert.throws(() => cache.truncate(5), /cannot cut 4 positions to 5/);
  cache.dispose();
});
