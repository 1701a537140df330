/** The Hugging Face layout as a view: synthesised files are those the official writers would write. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { importDirectory, importedLocations, type ImportResult } from "../../../src/engine/checkpoint/importers.ts";
import { initializeRandom } from "../../../src/engine/checkpoint/initialize.ts";
import { formatHeader, parseHeader, parseHeaderLength } from "../../../src/engine/checkpoint/safetensors.ts";
import { listViewFiles, openViewFile, writeViewFiles, type ViewRange } from "../../../src/engine/checkpoint/view.ts";
import { writeTensors } from "../../../src/engine/checkpoint/writer.ts";
import type { CheckpointManifest, ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { rejectsWith, scratch, tinyConfig, tinyTensors, writeFiles, singleFiles } from "./fixtures.ts";

const tinyModels = sharedData("golden", "hf", "tiny_models");

interface Made extends ResolvedCheckpoint {
  readonly blobDir: string;
  readonly result: ImportResult;
}

async function random(t: TestContext, config = tinyConfig): Promise<Made> {
  const blobDir = join(await scratch(t), "blobs");
  const result = await initializeRandom({ configJson: config, seed: 7, blobDir });
  return { id: "ckpt_x", manifest: result.manifest, blobs: importedLocations(result, blobDir), blobDir, result };
}

async function read(
  resolved: ResolvedCheckpoint,
  name: string,
  range?: ViewRange,
  maxShardBytes?: number,
): Promise<Buffer> {
  const options = maxShardBytes === undefined ? {} : { maxShardBytes };
  const chunks: Uint8Array[] = [];
  const reader = (await openViewFile(resolved, name, range, options)).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return Buffer.concat(chunks);
    chunks.push(value);
  }
}

test("invariant 29: weights written here download as the very blob, and import as the same checkpoint", async (t) => {
  const made = await random(t);
  assert.deepEqual(
    listViewFiles(made.manifest).map((file) => file.name),
    ["config.json", "model.safetensors"],
  );
  const [blob] = made.result.blobs;
  assert.ok((await read(made, "model.safetensors")).equals(await readFile(blobPath(made.blobDir, blob?.digest ?? ""))));
  const dir = await scratch(t);
  await writeViewFiles(made, join(dir, "out"));
  const again = await importDirectory({
    path: join(dir, "out"),
    mode: "reference",
    importRoots: [dir],
    blobDir: join(dir, "b"),
  });
  assert.equal(again.digest, made.result.digest);
});

test("equal seeds give equal bytes, other seeds others; norms are one", async (t) => {
  const [first, second] = [await random(t), await random(t)];
  assert.deepEqual(first.result.manifest, second.result.manifest);
  const other = await initializeRandom({ configJson: tinyConfig, seed: 8, blobDir: first.blobDir });
  assert.notEqual(other.digest, first.result.digest);
  await rejectsWith(initializeRandom({ configJson: {}, seed: 1, blobDir: first.blobDir }), "checkpoint_unsupported");
});

test("shards and their index hold every tensor once, and import as the same checkpoint", async (t) => {
  const made = await random(t);
  const dir = await scratch(t);
  const options = { maxShardBytes: 700 };
  await writeViewFiles(made, join(dir, "out"), options);
  const names = (await readdir(join(dir, "out"))).sort();
  const shards = names.filter((name) => name.endsWith(".safetensors"));
  assert.ok(shards.length > 2);
  assert.deepEqual(names, ["config.json", ...shards, "model.safetensors.index.json"].sort());
  assert.equal(shards[0], `model-00001-of-${String(shards.length).padStart(5, "0")}.safetensors`);
  const index = JSON.parse(await readFile(join(dir, "out", "model.safetensors.index.json"), "utf8")) as {
    metadata: { total_size: number };
    weight_map: Record<string, string>;
  };
  assert.equal(
    index.metadata.total_size,
    made.manifest.tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
  );
  assert.deepEqual(Object.keys(index.weight_map), made.manifest.tensors.map((tensor) => tensor.name).sort());
  const again = await importDirectory({
    path: join(dir, "out"),
    mode: "reference",
    importRoots: [dir],
    blobDir: join(dir, "b"),
  });
  assert.equal(again.digest, made.result.digest);
});

test("tensors of several blobs, some of them shared, are put together into one file", async (t) => {
  const made = await random(t);
  const fresh = tinyTensors().filter((tensor) => tensor.name.includes("self_attn"));
  const written = await writeTensors(
    made.blobDir,
    fresh.map((tensor) => ({ info: tensor, data: () => tensor.bytes })),
  );
  const renamed = made.manifest.tensors
    .filter(({ name }) => name.startsWith("model.layers.0."))
    .map((tensor) => written.tensors.find(({ name }) => name === tensor.name) ?? tensor)
    .map((tensor) => ({ ...tensor, name: tensor.name.replace("layers.0", "layers.1") }));
  const manifest: CheckpointManifest = {
    ...made.manifest,
    config: { ...made.manifest.config, numHiddenLayers: 2 },
    tensors: [...made.manifest.tensors, ...renamed],
  };
  const locations = importedLocations({ blobs: [{ ...written.blob, external: null }] }, made.blobDir);
  const grown = { id: "ckpt_y", manifest, blobs: { ...made.blobs, ...locations } };
  const file = await read(grown, "model.safetensors");
  const length = parseHeaderLength(file.subarray(0, 8), file.length, "f");
  const header = parseHeader(file.subarray(8, 8 + length), file.length, "f");
  assert.equal(header.tensors.length, 21);
  const bytesOf = (name: string): Buffer => {
    const entry = header.tensors.find((tensor) => tensor.name === name);
    assert.ok(entry);
    return file.subarray(entry.offset, entry.offset + entry.sizeBytes);
  };
  const up = "mlp.up_proj.weight";
  assert.ok(bytesOf(`model.layers.0.${up}`).equals(bytesOf(`model.layers.1.${up}`)));
  const query = "self_attn.q_proj.weight";
  assert.ok(
    bytesOf(`model.layers.1.${query}`).equals(fresh.find(({ name }) => name.endsWith(query))?.bytes as Uint8Array),
  );
  assert.equal(
    (JSON.parse(String(await read(grown, "config.json"))) as { num_hidden_layers: number }).num_hidden_layers,
    2,
  );
  const [, before] = listViewFiles(made.manifest);
  const [, after] = listViewFiles(manifest);
  assert.notEqual(before?.etag, after?.etag);
});

test("every range gives the bytes of the whole file, and a range outside it is refused", async (t) => {
  const made = await random(t);
  const whole = await read(made, "model.safetensors");
  const edge = 8 + parseHeaderLength(whole.subarray(0, 8), whole.length, "f");
  for (const offset of [0, 1, edge - 1, edge, edge + 5, whole.length - 1, whole.length]) {
    for (const length of [0, 1, 2, 100, whole.length - offset]) {
      if (offset + length > whole.length) continue;
      const part = await read(made, "model.safetensors", { offset, length });
      assert.ok(part.equals(whole.subarray(offset, offset + length)), `${offset}+${length}`);
    }
  }
  for (const [offset, length] of [
    [0, whole.length + 1],
    [whole.length, 1],
    [-1, 2],
    [0, -1],
    [0.5, 1],
    [0, Infinity],
  ] as const) {
    await rejectsWith(openViewFile(made, "model.safetensors", { offset, length }), "range_not_satisfiable");
  }
  for (const name of ["nope", "../config.json", "__proto__", ""])
    await rejectsWith(openViewFile(made, name), "not_found");
});

test("config.json names class and element type, keeps unknown fields, and writes floats as floats", async (t) => {
  const made = await random(t, {
    ...tinyConfig,
    my_field: { keep: [1, "two"] },
    torch_dtype: "bfloat16",
    rope_theta: 500000,
  });
  const text = String(await read(made, "config.json"));
  const json = JSON.parse(text) as Record<string, unknown>;
  assert.deepEqual(json["architectures"], ["LlamaForCausalLM"]);
  assert.equal(json["torch_dtype"], "float32");
  assert.deepEqual(json["my_field"], { keep: [1, "two"] });
  assert.match(text, /"rope_theta": 500000\.0,?\n/);
  assert.ok(text.endsWith("}\n"));
});

test("a tied model is written without its head", async (t) => {
  const made = await random(t, { ...tinyConfig, tie_word_embeddings: true });
  assert.ok(!String(await read(made, "model.safetensors")).includes("lm_head"));
});

const linux = { skip: process.platform === "linux" ? false : "needs /proc" };

test("a stream reads only what is asked for, and closes its file when it ends or is cancelled", linux, async (t) => {
  const blobDir = join(await scratch(t), "blobs");
  const values = new Float32Array(1 << 20).map((_value, at) => at);
  const info = { name: "big", dtype: "F32", shape: [values.length] } as const;
  const { tensors, blob } = await writeTensors(blobDir, [{ info, data: () => values }]);
  const base = (await random(t)).manifest;
  const resolved = {
    id: "x",
    manifest: { ...base, tensors },
    blobs: importedLocations({ blobs: [{ ...blob, external: null }] }, blobDir),
  };
  const openFiles = async (): Promise<number> => {
    const links = await Promise.all(
      (await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")),
    );
    return links.filter((path) => path.includes(blob.digest)).length;
  };
  const stream = await openViewFile(resolved, "model.safetensors");
  assert.equal(await openFiles(), 0);
  const reader = stream.getReader();
  await reader.read();
  const { value } = await reader.read();
  assert.ok((value?.length ?? 0) <= 512 * 1024);
  assert.equal(await openFiles(), 1);
  await reader.cancel();
  assert.equal(await openFiles(), 0);
  assert.equal((await read(resolved, "model.safetensors")).length, listViewFiles(resolved.manifest)[1]?.sizeBytes);
  assert.equal(await openFiles(), 0);
});

test("headers written by transformers are written the same here, byte for byte", needsShared(tinyModels), () => {
  let seen = 0;
  for (const name of readdirSync(tinyModels as string, { recursive: true }) as string[]) {
    if (!/model[^/]*\.safetensors$/.test(name)) continue;
    const file = readFileSync(join(tinyModels as string, name));
    const length = parseHeaderLength(file.subarray(0, 8), file.length, name);
    const { tensors, metadata, dataOffset } = parseHeader(file.subarray(8, 8 + length), file.length, name);
    const shuffled = [...tensors].sort((a, b) => a.sizeBytes - b.sizeBytes || (a.name < b.name ? 1 : -1));
    const written = formatHeader(shuffled, Object.fromEntries(metadata));
    assert.ok(file.subarray(0, dataOffset).equals(written.bytes), name);
    seen += 1;
  }
  assert.ok(seen >= 20);
});

test(
  "a model of transformers, synthesised again from its tensors, is the same file",
  needsShared(tinyModels),
  async (t) => {
    const dir = await scratch(t);
    for (const name of ["gqa8_2_tied.bf16", "prime_dims.f16", "llama3_rope.f32", "headdim12_theta5e5.f32"]) {
      const path = join(tinyModels as string, name);
      const result = await importDirectory({
        path,
        mode: "reference",
        importRoots: [tinyModels as string],
        blobDir: join(dir, "b"),
      });
      const manifest = { ...result.manifest, original: null };
      const resolved = { id: "x", manifest, blobs: importedLocations(result, join(dir, "b")) };
      assert.ok(
        (await read(resolved, "model.safetensors")).equals(readFileSync(join(path, "model.safetensors"))),
        name,
      );
      const config = JSON.parse(String(await read(resolved, "config.json"))) as unknown;
      assert.deepEqual(config, JSON.parse(readFileSync(join(path, "config.json"), "utf8")), name);
    }
  },
);

test("companions travel with synthesised weights too", async (t) => {
  const dir = await scratch(t);
  const path = await writeFiles(dir, "model", {
    ...singleFiles(),
    "tokenizer.json": '{"a":1}',
    "chat_template.jinja": "hi",
  });
  const result = await importDirectory({ path, mode: "copy", importRoots: [dir], blobDir: join(dir, "b") });
  const manifest = { ...result.manifest, original: null };
  const listed = listViewFiles(manifest).map(({ name, contentType }) => [name, contentType]);
  assert.deepEqual(listed, [
    ["config.json", "application/json"],
    ["model.safetensors", "application/octet-stream"],
    ["tokenizer.json", "application/json"],
    ["chat_template.jinja", "text/plain; charset=utf-8"],
  ]);
  const resolved = { id: "x", manifest, blobs: importedLocations(result, join(dir, "b")) };
  assert.equal(String(await read(resolved, "tokenizer.json")), '{"a":1}');
});
