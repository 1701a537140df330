/** The pool of GPU buffers, on a device that only counts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PooledBuffers } from "../../../src/engine/backends/pooledBuffers.ts";

function countingDevice(): { device: GPUDevice; made: number; destroyed: number } {
  const counts = { made: 0, destroyed: 0, device: null as unknown as GPUDevice };
  const createBuffer = ({ size, usage }: GPUBufferDescriptor) => {
    counts.made++;
    return { size, usage, destroy: () => counts.destroyed++ };
  };
  counts.device = { createBuffer } as unknown as GPUDevice;
  return counts;
}

const mebibyte = 2 ** 20;

test("a buffer that was given back is used again for its size and usage only", () => {
  const counts = countingDevice();
  const pool = new PooledBuffers(counts.device);
  const first = pool.acquireBuffer(64, 8);
  pool.releaseBuffer(first);
  assert.notEqual(pool.acquireBuffer(64, 4), first);
  assert.notEqual(pool.acquireBuffer(128, 8), first);
  assert.equal(pool.acquireBuffer(64, 8), first);
  assert.deepEqual([counts.made, counts.destroyed, pool.numBytesUsed], [3, 0, 256]);
});

test("buffers of ever new sizes do not pile up: what has waited longest is destroyed, by count of bytes", () => {
  const counts = countingDevice();
  const pool = new PooledBuffers(counts.device);
  for (let i = 0; i < 100; i++) pool.releaseBuffer(pool.acquireBuffer(64 * mebibyte + i, 8));
  assert.ok(pool.numBytesAllocated <= 256 * mebibyte, `${pool.numBytesAllocated}`);
  assert.equal(pool.numBytesUsed, 0);
  assert.ok(counts.destroyed >= 96);
  const newest = 64 * mebibyte + 99;
  const made = counts.made;
  pool.acquireBuffer(newest, 8);
  assert.equal(counts.made, made, "the newest still waits");
});

test("a buffer that is not to be used again is destroyed at once, and the rest when the pool goes", () => {
  const counts = countingDevice();
  const pool = new PooledBuffers(counts.device);
  pool.releaseBuffer(pool.acquireBuffer(8, 1), false);
  pool.releaseBuffer(pool.acquireBuffer(8, 2));
  assert.equal(counts.destroyed, 1);
  pool.dispose();
  assert.deepEqual([counts.destroyed, pool.numBytesAllocated], [2, 0]);
});
