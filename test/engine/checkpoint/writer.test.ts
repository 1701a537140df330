/** Tensors are written one at a time, in the official order, and read back as the same values. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { blobLocation, blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { verifyCheckpoint } from "../../../src/engine/checkpoint/digest.ts";
import { copyFile, moveFile } from "../../../src/engine/checkpoint/place.ts";
import { findTensor, locate, readTensors, TensorReader } from "../../../src/engine/checkpoint/tensorReader.ts";
import { writeTensors } from "../../../src/engine/checkpoint/writer.ts";
import type { CheckpointManifest } from "../../../src/ops/manifest.ts";
import type { Dtype } from "../../../src/ops/tensor.ts";
import { rejectsWith, scratch, throwsWith } from "./fixtures.ts";

const infoOf = (name: string, length: number, dtype: Dtype = "F32") => ({ name, dtype, shape: [length] });

test("values are encoded to their type, bytes are taken as they are, and both read back", async (t) => {
  const dir = await scratch(t);
  const order: string[] = [];
  const values = Float32Array.of(1, -2.5, 65504, 0);
  const { tensors, blob } = await writeTensors(dir, [
    { info: infoOf("half", 4, "F16"), data: () => (order.push("half"), values) },
    { info: infoOf("b", 4), data: async () => (order.push("b"), values) },
    { info: infoOf("a", 2), data: () => (order.push("a"), new Uint8Array(8).fill(0)) },
    { info: infoOf("brain", 4, "BF16"), data: () => (order.push("brain"), values) },
  ]);
  assert.deepEqual(order, ["a", "b", "brain", "half"], "asked for in file order");
  assert.deepEqual(
    tensors.map((tensor) => tensor.name),
    ["half", "b", "a", "brain"],
    "answered in the caller's order",
  );
  const blobs = { [blob.digest]: blobLocation(dir, blob) };
  const read = new Map<string, number[]>();
  for await (const { info, values: got } of readTensors(blobs, tensors)) read.set(info.name, [...got]);
  assert.deepEqual(read.get("half"), [...values]);
  assert.deepEqual(read.get("b"), [...values]);
  assert.deepEqual(read.get("a"), [0, 0]);
  assert.deepEqual(read.get("brain"), [1, -2.5, 65536, 0]);
  const file = await readFile(blobPath(dir, blob.digest));
  for (const { offset, sizeBytes, sha256 } of tensors) {
    assert.equal(
      createHash("sha256")
        .update(file.subarray(offset, offset + sizeBytes))
        .digest("hex"),
      sha256,
    );
  }
  assert.equal(createHash("sha256").update(file).digest("hex"), blob.digest);
});

test("a producer that fails, gives another size, or is aborted leaves nothing behind", async (t) => {
  const dir = await scratch(t);
  const failing = writeTensors(dir, [{ info: infoOf("a", 1), data: () => Promise.reject(new Error("no")) }]);
  await assert.rejects(failing, /no/);
  await rejectsWith(
    writeTensors(dir, [{ info: infoOf("a", 2), data: () => new Float32Array(3) }]),
    "internal",
    "12 bytes",
  );
  const abort = new AbortController();
  const aborted = writeTensors(
    dir,
    [1, 2].map((at) => ({ info: infoOf(`t${at}`, 1), data: () => new Float32Array(1) })),
    { signal: abort.signal, onProgress: () => abort.abort(new Error("stop")) },
  );
  await assert.rejects(aborted, /stop/);
  assert.deepEqual(await readdir(dir, { recursive: true }), ["tmp"]);
});

test("verification names the tensor whose bytes changed", async (t) => {
  const dir = await scratch(t);
  const { tensors, blob } = await writeTensors(
    dir,
    ["a", "b"].map((name) => ({ info: infoOf(name, 4), data: () => new Float32Array(4) })),
  );
  const manifest = { tensors } as unknown as CheckpointManifest;
  const resolved = { id: "x", manifest, blobs: { [blob.digest]: blobLocation(dir, blob) } };
  await verifyCheckpoint(resolved);
  const path = blobPath(dir, blob.digest);
  const bytes = await readFile(path);
  bytes[bytes.length - 1] = 1;
  await writeFile(path, bytes);
  await rejectsWith(verifyCheckpoint(resolved), "checkpoint_corrupt", "tensor b: SHA-256");
});

test("a tensor or blob that is not there is an error, not undefined", async (t) => {
  const dir = await scratch(t);
  const { tensors } = await writeTensors(dir, [{ info: infoOf("a", 1), data: () => new Float32Array(1) }]);
  const resolved = { id: "x", manifest: { tensors } as unknown as CheckpointManifest, blobs: {} };
  throwsWith(() => findTensor(resolved, "toString"), "not_found", "toString");
  throwsWith(() => locate({}, "constructor"), "checkpoint_corrupt", "not in the store");
  const reader = new TensorReader({});
  await assert.rejects(async () => reader.read(findTensor(resolved, "a")), { code: "checkpoint_corrupt" });
  await reader.close();
});

const memory = existsSync("/dev/shm") && statSync("/dev/shm").dev !== statSync(tmpdir()).dev ? "/dev/shm" : null;
const otherDisk = { skip: memory === null ? "needs a second file system" : false };

test("a file on another file system is copied, checked, and removed", otherDisk, async (t) => {
  const dir = await scratch(t);
  const other = await mkdtemp(join(memory as string, "cambium-checkpoint-"));
  t.after(() => rm(other, { recursive: true, force: true }));
  const path = join(other, "file");
  await writeFile(path, "content");
  const { size, mtimeMs } = await stat(path);
  const file = { name: "file", path, sizeBytes: size, mtimeMs };
  await rejectsWith(moveFile(join(dir, "blobs"), file, "0".repeat(64)), "source_changed");
  const moved = await moveFile(join(dir, "blobs"), file, createHash("sha256").update("content").digest("hex"));
  assert.equal(await readFile(moved.path, "utf8"), "content");
  await assert.rejects(stat(path), { code: "ENOENT" });
});

test("a file moved into the store is its blob; one that changed since it was looked at is refused", async (t) => {
  const dir = await scratch(t);
  const path = join(dir, "file");
  const sha256 = createHash("sha256").update("content").digest("hex");
  const look = async () => {
    await writeFile(path, "content");
    const { size, mtimeMs } = await stat(path);
    return { name: "file", path, sizeBytes: size, mtimeMs };
  };
  const moved = await moveFile(join(dir, "blobs"), await look(), sha256);
  assert.equal(await readFile(moved.path, "utf8"), "content");
  await assert.rejects(stat(path), { code: "ENOENT" });
  // Again: the blob is there already.
  assert.equal((await moveFile(join(dir, "blobs"), await look(), sha256)).path, moved.path);
  const file = await look();
  await writeFile(path, "other content");
  await rejectsWith(moveFile(join(dir, "blobs"), file, sha256), "source_changed", "changed");
  await rejectsWith(copyFile(join(dir, "blobs"), file), "source_changed", "changed");
});
