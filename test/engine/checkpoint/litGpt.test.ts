/** Weights in lit-gpt's layout, fused here row by row, come back as the split ones they were fused from. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { importDirectory, importedLocations, importFiles } from "../../../src/engine/checkpoint/importers.ts";
import { verifyCheckpoint } from "../../../src/engine/checkpoint/digest.ts";
import { listViewFiles, openViewFile } from "../../../src/engine/checkpoint/view.ts";
import { fileOf, rejectsWith, scratch, tinyTensors, writeFiles } from "./fixtures.ts";
import { configOf, litGptMlp, litGptTensors, tinyLlamaMlp } from "./litGptFixture.ts";

for (const [what, heads, mlp, more] of [
  ["multi-head, TinyLlama's names", { queries: 3, groups: 3, headDim: 4 }, tinyLlamaMlp, {}],
  ["grouped queries, lit-gpt's names", { queries: 6, groups: 3, headDim: 2 }, litGptMlp, {}],
  ["one group", { queries: 4, groups: 1, headDim: 2 }, litGptMlp, {}],
  ["biases", { queries: 4, groups: 2, headDim: 2 }, litGptMlp, { attention_bias: true, mlp_bias: true }],
] as const) {
  for (const dtype of ["F32", "BF16"] as const) {
    test(`invariant 29: fused and split again, the tensors are those of before: ${what}, ${dtype}`, async (t) => {
      const dir = await scratch(t);
      const blobDir = join(dir, "blobs");
      const config = configOf(heads, more);
      const tensors = tinyTensors(config, dtype);
      const path = await writeFiles(dir, "lit", {
        "config.json": JSON.stringify(config),
        "model.safetensors": fileOf(litGptTensors(tensors, heads, mlp)),
      });
      const seen: number[] = [];
      const result = await importDirectory({
        ...{ path, mode: "reference", blobDir, importRoots: [dir] },
        onProgress: (done, total) => seen.push(done / total),
      });
      assert.equal(seen.at(-1), 1);
      const wanted = tensors.map(({ name, shape, bytes }) => {
        return { name, shape, dtype, sha256: createHash("sha256").update(bytes).digest("hex") };
      });
      assert.deepEqual(
        result.manifest.tensors.map(({ name, shape, dtype, sha256 }) => ({ name, shape, dtype, sha256 })),
        wanted,
      );
      const resolved = { id: "ckpt", manifest: result.manifest, blobs: importedLocations(result, blobDir) };
      await verifyCheckpoint(resolved);
      // Only what is scattered was written: with one group, query, key and value each lie in one piece.
      const files = (await readdir(blobDir, { recursive: true, withFileTypes: true }).catch(() => [])).filter((file) =>
        file.isFile(),
      );
      assert.equal(files.length, heads.groups > 1 ? 1 : 0);

      // It downloads in the Hugging Face layout, and comes back as the same checkpoint.
      const copy: Record<string, Uint8Array> = {};
      for (const { name } of listViewFiles(result.manifest)) {
        const parts: Uint8Array[] = [];
        for await (const part of await openViewFile(resolved, name)) parts.push(part as Uint8Array);
        copy[name] = Buffer.concat(parts);
      }
      const again = await importDirectory({
        ...{ path: await writeFiles(dir, "again", copy), mode: "copy", blobDir, importRoots: [dir] },
      });
      assert.deepEqual(
        again.manifest.tensors.map(({ name, sha256 }) => [name, sha256]),
        wanted.map(({ name, sha256 }) => [name, sha256]),
      );
      assert.equal(again.digest, result.digest);
    });
  }
}

test("uploaded and copied weights in lit-gpt's layout need their files no longer", async (t) => {
  const dir = await scratch(t);
  const heads = { queries: 4, groups: 2, headDim: 2 };
  const config = configOf(heads);
  const files = {
    "config.json": JSON.stringify(config),
    "model.safetensors": fileOf(litGptTensors(tinyTensors(config), heads, litGptMlp)),
  };
  const path = await writeFiles(dir, "lit", files);
  const copied = await importDirectory({ path, mode: "copy", blobDir: join(dir, "copied"), importRoots: [dir] });
  const listed = (await readdir(path)).map((name) => ({ name, path: join(path, name) }));
  const moved = await importFiles({ files: listed, blobDir: join(dir, "moved") });
  await rm(path, { recursive: true });
  for (const [result, blobDir] of [
    [copied, "copied"],
    [moved, "moved"],
  ] as const) {
    const blobs = importedLocations(result, join(dir, blobDir));
    await verifyCheckpoint({ id: "ckpt", manifest: result.manifest, blobs });
    for (const { path: blob } of Object.values(blobs)) assert.ok((await readFile(blob)).length > 0);
  }
  assert.deepEqual(moved.manifest, copied.manifest);
});

test("a fused matrix of other heads than the config's is refused by its own name", async (t) => {
  const dir = await scratch(t);
  const heads = { queries: 4, groups: 2, headDim: 2 };
  const files = {
    "config.json": JSON.stringify(configOf({ ...heads, groups: 4 })),
    "model.safetensors": fileOf(litGptTensors(tinyTensors(configOf(heads)), heads, litGptMlp)),
  };
  const path = await writeFiles(dir, "lit", files);
  const work = importDirectory({ path, mode: "copy", blobDir: join(dir, "blobs"), importRoots: [dir] });
  await rejectsWith(work, "checkpoint_corrupt", "transformer.h.0.attn.attn.weight has 16 rows");
});
