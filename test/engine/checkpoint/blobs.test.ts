/** The blob store: names are digests, nothing half-written is ever visible, and the sweep spares what is needed. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { link, mkdir, open, readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { openBlob, readBlob, verifyBlob } from "../../../src/engine/checkpoint/blobReader.ts";
import {
  asStorageError,
  BlobWriter,
  blobLocation,
  blobPath,
  createBlobWriter,
  writeBlob,
} from "../../../src/engine/checkpoint/blobs.ts";
import { removeBlobs, sweepBlobs } from "../../../src/engine/checkpoint/blobSweep.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { rejectsWith, scratch, throwsWith } from "./fixtures.ts";

const text = (value: string): Uint8Array => Buffer.from(value);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Every file of the store but the unfinished ones. */
async function visible(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile() && entry.parentPath !== join(dir, "tmp"));
  return files.map((entry) => entry.name).sort();
}

test("a blob appears under its digest, whole, only when it is finished", async (t) => {
  const dir = await scratch(t);
  const writer = await createBlobWriter(dir);
  await writer.write(text("hello "));
  await writer.write(text("world"));
  assert.deepEqual(await visible(dir), []);
  const blob = await writer.finish();
  assert.deepEqual(blob, { digest: sha256(text("hello world")), sizeBytes: 11 });
  assert.equal(await readFile(blobPath(dir, blob.digest), "utf8"), "hello world");
  assert.deepEqual(await readdir(join(dir, "tmp")), []);
  await writer.abort();
  assert.deepEqual(await visible(dir), [blob.digest]);
});

test("an aborted blob leaves nothing, and a writer that ended cannot be written to", async (t) => {
  const dir = await scratch(t);
  const writer = await createBlobWriter(dir);
  await writer.write(text("x"));
  await writer.abort();
  await writer.abort();
  assert.deepEqual(await readdir(join(dir, "tmp")), []);
  await assert.rejects(writer.write(text("y")), /has ended/);
  await assert.rejects(writer.finish(), /has ended/);
});

test("equal bytes are stored once, and finding a blob again makes it young", async (t) => {
  const dir = await scratch(t);
  const first = await writeBlob(dir, text("same"));
  const path = blobPath(dir, first.digest);
  await utimes(path, new Date(0), new Date(0));
  const before = await stat(path);
  assert.deepEqual(await writeBlob(dir, text("same")), first);
  const after = await stat(path);
  assert.equal(after.ino, before.ino);
  assert.ok(after.mtimeMs > before.mtimeMs);
  assert.deepEqual(await readdir(join(dir, "tmp")), []);
});

test("a blob of the wrong size under a digest is replaced by the right one", async (t) => {
  const dir = await scratch(t);
  const { digest } = await writeBlob(dir, text("right"));
  await writeFile(blobPath(dir, digest), "wrong!");
  await writeBlob(dir, text("right"));
  assert.equal(await readFile(blobPath(dir, digest), "utf8"), "right");
});

test("many writers of the same bytes at once all succeed", async (t) => {
  const dir = await scratch(t);
  const blobs = await Promise.all(Array.from({ length: 16 }, () => writeBlob(dir, text("together"))));
  assert.equal(new Set(blobs.map((blob) => blob.digest)).size, 1);
  assert.equal((await visible(dir)).length, 1);
});

test("nothing but a digest names a blob", () => {
  for (const name of ["", "..", "../../etc/passwd", "A".repeat(64), `${"a".repeat(63)}/`, `${"a".repeat(64)}\n`]) {
    throwsWith(() => blobPath("/blobs", name), "checkpoint_corrupt", "SHA-256");
  }
});

test("reads are ranged, and end with an error where the bytes end", async (t) => {
  const dir = await scratch(t);
  const location = blobLocation(dir, await writeBlob(dir, text("0123456789")));
  const reader = await openBlob(location);
  const parts = await Promise.all([reader.read(2, 3), reader.read(0, 1), reader.read(9, 1), reader.read(10, 0)]);
  assert.deepEqual(
    parts.map((part) => Buffer.from(part).toString()),
    ["234", "0", "9", ""],
  );
  await rejectsWith(reader.read(8, 3), "checkpoint_corrupt", "ends before byte 11");
  await reader.close();
  assert.equal(Buffer.from(await readBlob(location, 10)).toString(), "0123456789");
  await rejectsWith(readBlob(location, 9), "checkpoint_unsupported", "at most 9");
});

test("a blob that is missing, cut, or not its digest is noticed", async (t) => {
  const dir = await scratch(t);
  const blob = await writeBlob(dir, text("content"));
  const location = blobLocation(dir, blob);
  await verifyBlob(location, blob.digest);
  await writeFile(location.path, "CONTENT");
  await rejectsWith(verifyBlob(location, blob.digest), "checkpoint_corrupt", "SHA-256");
  await writeFile(location.path, "cont");
  await rejectsWith(openBlob(location), "checkpoint_corrupt", "4 bytes, 7 wanted");
  await rejectsWith(openBlob({ ...location, path: join(dir, "none") }), "checkpoint_corrupt", "gone");
  await rejectsWith(openBlob({ ...location, path: join(dir, "none"), mtimeMs: 1 }), "source_changed", "gone");
});

test("a full disk has its own code, anything else passes unchanged", () => {
  const full = Object.assign(new Error("write"), { code: "ENOSPC" });
  const error = asStorageError(full);
  assert.ok(error instanceof CodedError && error.code === "storage_full" && error.cause === full);
  const other = new Error("other");
  assert.equal(asStorageError(other), other);
});

const linux = { skip: process.platform === "linux" ? false : "needs /dev/full" };

test("a write that meets a full disk fails as storage_full and leaves nothing", linux, async (t) => {
  const dir = await scratch(t);
  const writer = await createBlobWriter(dir);
  // A handle on /dev/full fails every write with ENOSPC, as a full disk does.
  const full = new BlobWriter(dir, join(dir, "tmp", "none"), await open("/dev/full", "w"));
  await rejectsWith(full.write(text("x")), "storage_full", "no space left");
  await full.abort();
  await writer.abort();
  assert.deepEqual(await visible(dir), []);
});

test("the sweep takes dead files and old unknown blobs, and spares the known, the young and strangers", async (t) => {
  const dir = await scratch(t);
  const nowMs = Date.now() + 3_600_000;
  const young = new Date(nowMs - 1000);
  const blobs = await Promise.all(["known", "unknown", "young"].map((name) => writeBlob(dir, text(name))));
  const [known, unknown, fresh] = blobs.map((blob) => blob.digest) as [string, string, string];
  await utimes(blobPath(dir, fresh), young, young);
  await writeFile(join(dir, "tmp", "dead"), "123");
  await writeFile(join(dir, "tmp", "alive"), "x");
  await utimes(join(dir, "tmp", "alive"), young, young);
  await mkdir(join(dir, "zz"));
  await writeFile(join(dir, "notes.txt"), "mine");
  const asked: string[] = [];
  const knows = async (digests: readonly string[]): Promise<ReadonlySet<string>> => {
    asked.push(...digests);
    return new Set(digests.filter((digest) => digest === known));
  };
  const ages = { graceMs: 60_000, temporaryAgeMs: 60_000, nowMs };
  const result = await sweepBlobs(dir, { ...ages, known: knows });
  assert.deepEqual(result, { removedTemporary: 1, removedBlobs: 1, freedBytes: 10 });
  assert.deepEqual(asked.sort(), [known, unknown, fresh].sort());
  assert.deepEqual(await visible(dir), [known, fresh, "notes.txt"].sort());
  assert.deepEqual(await readdir(join(dir, "tmp")), ["alive"]);
  const removed = await removeBlobs(dir, [known, fresh, unknown], { graceMs: 60_000, nowMs });
  assert.deepEqual(removed, { removedBlobs: 1, freedBytes: 5 });
  const nothing = await sweepBlobs(join(dir, "absent"), { ...ages, known: knows });
  assert.deepEqual(nothing, { removedTemporary: 0, removedBlobs: 0, freedBytes: 0 });
});

test("an old file lent to the folder of unfinished ones by a link is not dead", async (t) => {
  const dir = await scratch(t);
  await mkdir(join(dir, "tmp"));
  await writeFile(join(dir, "upload"), "old");
  await utimes(join(dir, "upload"), new Date(0), new Date(0));
  await link(join(dir, "upload"), join(dir, "tmp", "lent"));
  await sweepBlobs(dir, { graceMs: 60_000, temporaryAgeMs: 60_000, known: async () => new Set() });
  assert.deepEqual(await readdir(join(dir, "tmp")), ["lent"]);
});

test("a writer killed with -9 leaves nothing visible, and its unfinished file is swept", async (t) => {
  const dir = await scratch(t);
  const module = new URL("../../../src/engine/checkpoint/writer.ts", import.meta.url).href;
  const script = `
    import { writeTensors } from ${JSON.stringify(module)};
    const infos = Array.from({ length: 1000 }, (_, at) => ({ name: "t" + at, dtype: "F32", shape: [65536] }));
    await writeTensors(process.argv[1], infos.map((info, at) => ({ info, data: async () => {
      if (at === 1) process.stdout.write("writing");
      await new Promise((resolve) => setTimeout(resolve, 5));
      return new Float32Array(65536);
    } })));`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script, dir], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.deepEqual(await visible(dir), []);
  assert.equal((await readdir(join(dir, "tmp"))).length, 1);
  const later = Date.now() + 3_600_000;
  const swept = await sweepBlobs(dir, {
    graceMs: 0,
    temporaryAgeMs: 60_000,
    nowMs: later,
    known: async () => new Set(),
  });
  assert.equal(swept.removedTemporary, 1);
  assert.deepEqual(await readdir(join(dir, "tmp")), []);
});
