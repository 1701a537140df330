/** Real checkpoints, imported by reference and by copy, download byte for byte and read as the right values. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cp, readFile, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import {
  importDirectory,
  importedLocations,
  importFiles,
  type ImportResult,
} from "../../../src/engine/checkpoint/importers.ts";
import { verifyCheckpoint } from "../../../src/engine/checkpoint/digest.ts";
import { readTensor } from "../../../src/engine/checkpoint/tensorReader.ts";
import { listViewFiles, openViewFile } from "../../../src/engine/checkpoint/view.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import {
  rejectsWith,
  scratch,
  singleFiles,
  shardedFiles,
  tinyConfig,
  tinyTensors,
  fileOf,
  writeFiles,
} from "./fixtures.ts";

const real = sharedData("checkpoints");
const names = ["stories260K", "stories260K-bf16", "stories260K-f16-sharded", "babyllama-tok361", "llama-2-tiny-random"];

function resolve(result: ImportResult, blobDir: string): ResolvedCheckpoint {
  return { id: "ckpt_test", manifest: result.manifest, blobs: importedLocations(result, blobDir) };
}

async function download(resolved: ResolvedCheckpoint, name: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of (await openViewFile(resolved, name)) as unknown as AsyncIterable<Uint8Array>)
    chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function stored(blobDir: string): Promise<string[]> {
  const files = await readdir(blobDir, { recursive: true, withFileTypes: true });
  return files
    .filter((file) => file.isFile())
    .map((file) => file.name)
    .sort();
}

async function roundTrip(t: TestContext, path: string, mode: "reference" | "copy"): Promise<ImportResult> {
  const blobDir = join(await scratch(t), "blobs");
  const seen: number[] = [];
  const result = await importDirectory({
    path,
    mode,
    blobDir,
    importRoots: [dirname(path)],
    onProgress: (done, total) => seen.push(done / total),
  });
  assert.equal(seen.at(-1), 1, "progress ends at 1");
  const resolved = resolve(result, blobDir);
  const listed = listViewFiles(result.manifest);
  assert.deepEqual(listed.map((file) => file.name).sort(), (await readdir(path)).sort());
  for (const file of listed) {
    const bytes = await download(resolved, file.name);
    assert.ok(bytes.equals(await readFile(join(path, file.name))), `${file.name} downloads byte for byte`);
    assert.equal(file.sizeBytes, bytes.length);
    assert.equal(file.etag, createHash("sha256").update(bytes).digest("hex"));
  }
  await verifyCheckpoint(resolved);
  const external = result.blobs.filter((blob) => blob.external !== null);
  assert.equal(external.length, mode === "copy" ? 0 : listed.filter((f) => f.name.endsWith(".safetensors")).length);
  assert.equal((await stored(blobDir)).length, result.blobs.length - external.length);
  return result;
}

for (const name of names) {
  test(`${name}: by reference and by copy, every file downloads byte for byte`, needsShared(real), async (t) => {
    const path = join(real as string, name);
    const reference = await roundTrip(t, path, "reference");
    const copy = await roundTrip(t, path, "copy");
    assert.equal(reference.digest, copy.digest);
    assert.deepEqual(reference.manifest, copy.manifest);
  });
}

test("the digest does not depend on how tensors were cut into files", async (t) => {
  const dir = await scratch(t);
  const options = { mode: "copy", importRoots: [dir], blobDir: join(dir, "blobs") } as const;
  const single = await importDirectory({ ...options, path: await writeFiles(dir, "single", singleFiles()) });
  const sharded = await importDirectory({ ...options, path: await writeFiles(dir, "sharded", shardedFiles()) });
  assert.equal(single.digest, sharded.digest);
  assert.notDeepEqual(single.manifest.tensors, sharded.manifest.tensors);
  const other = { ...tinyConfig, rms_norm_eps: 1e-5 };
  const changed = await importDirectory({ ...options, path: await writeFiles(dir, "other", singleFiles(other)) });
  assert.notEqual(changed.digest, single.digest);
});

test("tensors read as the values that were written, from F32, F16 and BF16", async (t) => {
  const dir = await scratch(t);
  const name = "model.layers.0.mlp.up_proj.weight";
  for (const dtype of ["F32", "F16", "BF16"] as const) {
    const path = await writeFiles(dir, dtype, singleFiles(tinyConfig, dtype));
    const result = await importDirectory({ path, mode: "reference", importRoots: [dir], blobDir: join(dir, "blobs") });
    const values = await readTensor(resolve(result, join(dir, "blobs")), name);
    const index = tinyTensors().findIndex((tensor) => tensor.name === name);
    const tolerance = dtype === "F32" ? 0 : dtype === "F16" ? 2 ** -11 : 2 ** -8;
    values.forEach((value, at) => assert.ok(Math.abs(value - Math.fround(Math.sin(at + index * 7))) <= tolerance));
    assert.equal(values.length, 96);
  }
});

test("a file registered by reference that is touched, cut or gone is source_changed, not other weights", async (t) => {
  const dir = await scratch(t);
  const blobDir = join(dir, "blobs");
  const path = await writeFiles(dir, "model", singleFiles());
  const file = join(path, "model.safetensors");
  const bytes = await readFile(file);
  const result = await importDirectory({ path, mode: "reference", importRoots: [dir], blobDir });
  const resolved = resolve(result, blobDir);
  const read = () => readTensor(resolved, "model.norm.weight");
  await read();
  await utimes(file, new Date(1e12), new Date(1e12));
  await rejectsWith(read(), "source_changed", "model.safetensors");
  await rejectsWith(openViewFile(resolved, "model.safetensors"), "source_changed");
  await writeFile(file, bytes.subarray(0, -1));
  await rejectsWith(read(), "source_changed", "bytes");
  await rm(file);
  await rejectsWith(read(), "source_changed", "gone");
});

test("copied weights survive the removal of their directory", async (t) => {
  const dir = await scratch(t);
  const blobDir = join(dir, "blobs");
  const path = await writeFiles(dir, "model", singleFiles());
  const result = await importDirectory({ path, mode: "copy", importRoots: [dir], blobDir });
  await rm(path, { recursive: true });
  assert.equal((await readTensor(resolve(result, blobDir), "model.norm.weight")).length, 8);
});

test("uploaded files are moved into the store and give the checkpoint of the same directory", async (t) => {
  const dir = await scratch(t);
  const blobDir = join(dir, "blobs");
  const path = await writeFiles(dir, "model", shardedFiles());
  const expected = await importDirectory({ path, mode: "copy", importRoots: [dir], blobDir: join(dir, "other") });
  const upload = join(dir, "upload");
  await cp(path, upload, { recursive: true });
  const files = (await readdir(upload)).map((name) => ({ name, path: join(upload, name) }));
  const result = await importFiles({ files, blobDir });
  assert.deepEqual(result.manifest, expected.manifest);
  assert.deepEqual(
    (await readdir(upload)).filter((name) => name.endsWith(".safetensors")),
    [],
  );
  await verifyCheckpoint(resolve(result, blobDir));
});

test("an aborted import fails with the signal's reason and leaves no unfinished file", async (t) => {
  const dir = await scratch(t);
  const blobDir = join(dir, "blobs");
  const path = await writeFiles(dir, "model", singleFiles());
  const abort = new AbortController();
  const work = importDirectory({
    path,
    mode: "copy",
    importRoots: [dir],
    blobDir,
    signal: abort.signal,
    onProgress: () => abort.abort(new Error("stop")),
  });
  await assert.rejects(work, /stop/);
  assert.deepEqual(await readdir(join(blobDir, "tmp")), []);
});

test("a tied head stored with the embedding's bytes is no tensor of its own; with other bytes it is refused", async (t) => {
  const dir = await scratch(t);
  const config = { ...tinyConfig, tie_word_embeddings: true };
  const tensors = tinyTensors(config);
  const embedding = tensors.find((tensor) => tensor.name === "model.embed_tokens.weight");
  assert.ok(embedding);
  const same = { ...embedding, name: "lm_head.weight" };
  const other = { ...same, bytes: same.bytes.map((byte) => byte ^ 1) };
  const options = { mode: "reference", importRoots: [dir], blobDir: join(dir, "blobs") } as const;
  const files = { "config.json": JSON.stringify(config) };
  const good = await writeFiles(dir, "good", { ...files, "model.safetensors": fileOf([...tensors, same]) });
  const result = await importDirectory({ ...options, path: good });
  assert.ok(!result.manifest.tensors.some((tensor) => tensor.name === "lm_head.weight"));
  const bad = await writeFiles(dir, "bad", { ...files, "model.safetensors": fileOf([...tensors, other]) });
  await rejectsWith(importDirectory({ ...options, path: bad }), "checkpoint_corrupt", "lm_head.weight");
});
