/** One named test per lie that an index, a directory or a configuration can tell. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { directorySource, openCheckpoint, type OpenedCheckpoint } from "../../../src/engine/checkpoint/reader.ts";
import { CodedError, type ErrorCode } from "../../../src/ops/errors.ts";
import {
  fileOf,
  rejectsWith,
  scratch,
  shardedFiles,
  shardNames,
  singleFiles,
  tinyConfig,
  tinyTensor,
  tinyTensors,
  writeFiles,
  type Files,
  type TinyTensor,
} from "./fixtures.ts";

async function open(path: string, ...roots: string[]): Promise<OpenedCheckpoint> {
  return openCheckpoint(await directorySource(path, roots));
}

const [shard1, shard2] = shardNames;
const norm = "model.norm.weight";

/** The index with shard 1's name replaced, as text so that any key can be written. */
function renamedShard(name: string): Files {
  const files = shardedFiles();
  const index = String(files["model.safetensors.index.json"]);
  return { ...files, "model.safetensors.index.json": index.replaceAll(JSON.stringify(shard1), JSON.stringify(name)) };
}

function withIndex(edit: (text: string) => string): Files {
  const files = shardedFiles();
  return { ...files, "model.safetensors.index.json": edit(String(files["model.safetensors.index.json"])) };
}

function withTensors(edit: (tensors: TinyTensor[]) => TinyTensor[]): Files {
  return { ...singleFiles(), "model.safetensors": fileOf(edit(tinyTensors())) };
}

function without(files: Files, name: string): Files {
  const rest = { ...files };
  delete rest[name];
  return rest;
}

const cases: readonly (readonly [lie: string, files: Files, code: ErrorCode, words: string | RegExp])[] = [
  [
    "a shard name that leaves the directory",
    renamedShard("../../x.safetensors"),
    "checkpoint_corrupt",
    "leaves the directory",
  ],
  ["a shard name with .. inside", renamedShard("a/../../x.safetensors"), "checkpoint_corrupt", "leaves the directory"],
  ["an absolute shard name", renamedShard("/etc/passwd"), "checkpoint_corrupt", "absolute path"],
  ["a shard name with backslashes", renamedShard("..\\..\\x.safetensors"), "checkpoint_corrupt", "backslash"],
  ["a drive letter", renamedShard("C:x.safetensors"), "checkpoint_corrupt", "is a URL"],
  ["a URL for a shard name", renamedShard("http://127.0.0.1:9/x.safetensors"), "checkpoint_corrupt", "is a URL"],
  ["a NUL in a shard name", renamedShard(`${shard1}\0`), "checkpoint_corrupt", "NUL"],
  ["a shard name with a dot prefix", renamedShard(`./${shard1}`), "checkpoint_corrupt", "begins with a dot"],
  ["a hidden shard", renamedShard(".x.safetensors"), "checkpoint_corrupt", "begins with a dot"],
  ["a shard in a sub directory", renamedShard(`sub/${shard1}`), "checkpoint_corrupt", "sub directory"],
  ["a shard name with a line break", renamedShard("a\nb.safetensors"), "checkpoint_corrupt", "characters other than"],
  [
    "a shard name of 300 characters",
    renamedShard(`${"x".repeat(300)}.safetensors`),
    "checkpoint_corrupt",
    "characters",
  ],
  ["an empty shard name", renamedShard(""), "checkpoint_corrupt", "does not end in"],
  ["an index that points to a pickle", renamedShard("pytorch_model.bin"), "checkpoint_corrupt", "pickle"],
  ["an index that points to config.json", renamedShard("config.json"), "checkpoint_corrupt", "does not end in"],
  ["a shard that is missing", renamedShard("model-00009-of-00009.safetensors"), "checkpoint_missing_file", "00009"],
  [
    "a key __proto__ in the index",
    withIndex((text) => text.replace('"weight_map":{', '"weight_map":{"__proto__":"x",')),
    "checkpoint_corrupt",
    "__proto__",
  ],
  [
    "a key twice in the index",
    withIndex((text) => text.replace('"weight_map":{', `"weight_map":{"${norm}":"${shard2}",`)),
    "checkpoint_corrupt",
    "duplicate key",
  ],
  [
    "a shard that is a number",
    withIndex((text) => text.replace(`"${norm}":"${shard2}"`, `"${norm}":2`)),
    "checkpoint_corrupt",
    "not a string",
  ],
  ["an index without weight_map", withIndex(() => "{}"), "checkpoint_corrupt", "weight_map is missing"],
  ["an index whose weight_map is empty", withIndex(() => '{"weight_map":{}}'), "checkpoint_corrupt", "names no tensor"],
  ["an index that is an array", withIndex(() => "[]"), "checkpoint_corrupt", "not a JSON object"],
  ["an index that is not JSON", withIndex(() => "weights"), "checkpoint_corrupt", "not a JSON value"],
  [
    "an index that maps a tensor to the other shard",
    shardedFiles((map) => (map[norm] = shard1)),
    "checkpoint_corrupt",
    /model\.norm\.weight.* is in shard/,
  ],
  [
    "an index that names a tensor no shard has",
    shardedFiles((map) => (map["model.extra"] = shard1)),
    "checkpoint_corrupt",
    "is not in shard",
  ],
  [
    "a shard with a tensor the index forgets",
    shardedFiles((map) => delete map[norm]),
    "checkpoint_corrupt",
    "is not in model",
  ],
  [
    "a tensor in two shards",
    shardedFiles((_map, [first, second]) => second?.push(first?.[0] as TinyTensor)),
    "checkpoint_corrupt",
    "in two shards",
  ],
  ["an empty shard", { ...shardedFiles(), [shard1]: "" }, "checkpoint_corrupt", "header too small"],
  [
    "a truncated shard",
    { ...shardedFiles(), [shard1]: (shardedFiles()[shard1] as Uint8Array).subarray(0, -8) },
    "checkpoint_corrupt",
    "cut short",
  ],
  ["no configuration", without(singleFiles(), "config.json"), "checkpoint_missing_file", "config.json"],
  ["no weights", without(singleFiles(), "model.safetensors"), "checkpoint_missing_file", "no weights"],
  [
    "only a pickle",
    { "config.json": JSON.stringify(tinyConfig), "pytorch_model.bin": "x" },
    "checkpoint_unsupported",
    "pickle",
  ],
  ["a configuration that is not JSON", { ...singleFiles(), "config.json": "{" }, "checkpoint_corrupt", "config.json"],
  [
    "a configuration that is an array",
    { ...singleFiles(), "config.json": "[]" },
    "checkpoint_corrupt",
    "not a JSON object",
  ],
  [
    "a key __proto__ in the configuration",
    { ...singleFiles(), "config.json": '{"__proto__":{"model_type":"llama"}}' },
    "checkpoint_corrupt",
    "__proto__",
  ],
  [
    "a field twice in the configuration",
    { ...singleFiles(), "config.json": JSON.stringify(tinyConfig).replace("{", '{"vocab_size":16,') },
    "checkpoint_corrupt",
    "duplicate key",
  ],
  [
    "a number out of range in the configuration",
    { ...singleFiles(), "config.json": JSON.stringify(tinyConfig).replace("{", '{"x":1e999,') },
    "checkpoint_corrupt",
    "1e999",
  ],
  [
    "a configuration of 1 MiB and more",
    { ...singleFiles(), "config.json": " ".repeat(2 ** 20 + 1) },
    "checkpoint_unsupported",
    "at most",
  ],
  [
    "a configuration nested 40 deep",
    { ...singleFiles(), "config.json": `{"x":${"[".repeat(40)}${"]".repeat(40)}}` },
    "checkpoint_corrupt",
    "nested deeper",
  ],
  ["another architecture", singleFiles({ ...tinyConfig }, "F32"), "checkpoint_unsupported", "gpt2"],
  ["a missing tensor", withTensors((all) => all.filter((tensor) => tensor.name !== norm)), "checkpoint_corrupt", norm],
  [
    "a missing head while untied",
    withTensors((all) => all.filter((tensor) => tensor.name !== "lm_head.weight")),
    "checkpoint_corrupt",
    "lm_head.weight",
  ],
  [
    "an unknown tensor",
    withTensors((all) => [...all, tinyTensor({ name: "model.extra", dtype: "F32", shape: [2] }, 1)]),
    "checkpoint_corrupt",
    "model.extra",
  ],
  [
    "a tensor of a layer that is not there",
    withTensors((all) => [
      ...all,
      tinyTensor({ name: "model.layers.1.input_layernorm.weight", dtype: "F32", shape: [8] }, 1),
    ]),
    "checkpoint_corrupt",
    "model.layers.1",
  ],
  [
    "a tensor of another shape",
    withTensors((all) =>
      all.map((tensor) => (tensor.name === norm ? tinyTensor({ ...tensor, shape: [2, 4] }, 1) : tensor)),
    ),
    "checkpoint_corrupt",
    "[2, 4]",
  ],
  [
    "integer weights",
    withTensors((all) => all.map((tensor) => (tensor.name === norm ? { ...tensor, dtype: "I32" as "F32" } : tensor))),
    "checkpoint_unsupported",
    'model.norm.weight" is I32',
  ],
];

for (const [lie, files, code, words] of cases) {
  test(`refused: ${lie}`, async (t) => {
    const dir = await scratch(t);
    const config =
      lie === "another architecture"
        ? { "config.json": JSON.stringify({ ...tinyConfig, architectures: ["GPT2LMHeadModel"], model_type: "gpt2" }) }
        : {};
    const path = await writeFiles(dir, "model", { ...files, ...config });
    await rejectsWith(open(path, dir), code, lie === "another architecture" ? undefined : words);
  });
}

test("honest directories open: single file, shards, mixed types, old rotary buffers beside the weights", async (t) => {
  const dir = await scratch(t);
  const buffer = tinyTensor({ name: "model.layers.0.self_attn.rotary_emb.inv_freq", dtype: "F32", shape: [2] }, 1);
  const mixed = tinyTensors().map((tensor, at) => (at % 2 ? tinyTensor({ ...tensor, dtype: "BF16" }, at) : tensor));
  for (const [name, files] of Object.entries({
    single: singleFiles(),
    sharded: shardedFiles(),
    buffers: withTensors((all) => [...all, buffer]),
    mixed: withTensors(() => mixed),
  })) {
    const opened = await open(await writeFiles(dir, name, files), dir);
    assert.deepEqual(
      opened.tensors.map((tensor) => tensor.name),
      tinyTensors().map((tensor) => tensor.name),
    );
    assert.equal(opened.config.vocabSize, 16);
  }
});

test("one weights file goes before shards, and files of no interest are not opened", async (t) => {
  const dir = await scratch(t);
  const path = await writeFiles(dir, "model", {
    ...shardedFiles(),
    ...singleFiles(),
    "tokenizer.json": "{}",
    "x.bin": "x",
  });
  await symlink("/nonexistent", join(path, "notes.txt"));
  const opened = await open(path, dir);
  assert.deepEqual(
    opened.weightFiles.map((file) => file.name),
    ["model.safetensors"],
  );
  assert.deepEqual(
    opened.companions.map((file) => file.name),
    ["tokenizer.json"],
  );
});

test("a link may point anywhere inside the roots and nowhere outside", async (t) => {
  const dir = await scratch(t);
  const root = join(dir, "root");
  await mkdir(join(root, "blobs"), { recursive: true });
  const path = await writeFiles(root, "snapshot", shardedFiles());
  // As the Hugging Face cache does: snapshots link to blobs.
  await rename(join(path, shard1), join(root, "blobs", "abc"));
  await symlink(join("..", "blobs", "abc"), join(path, shard1));
  const opened = await open(path, root);
  assert.equal(opened.weightFiles[0]?.path, join(root, "blobs", "abc"));
  await rename(join(root, "blobs", "abc"), join(dir, "abc"));
  await rm(join(path, shard1));
  await symlink(join(dir, "abc"), join(path, shard1));
  await rejectsWith(open(path, root), "forbidden", shard1);
  await open(path, root, dir);
});

test("refused: links that loop, dangle, or stand for the directory itself", async (t) => {
  const dir = await scratch(t);
  const root = join(dir, "root");
  const path = await writeFiles(root, "model", shardedFiles());
  await rm(join(path, shard1));
  await symlink(shard1, join(path, shard1));
  await rejectsWith(open(path, root), "checkpoint_corrupt", "loop");
  await rm(join(path, shard1));
  await symlink("nowhere.safetensors", join(path, shard1));
  await rejectsWith(open(path, root), "checkpoint_missing_file");
  await writeFiles(dir, "outside", singleFiles());
  await symlink(join(dir, "outside"), join(root, "link"));
  await rejectsWith(open(join(root, "link"), root), "forbidden");
});

test("refused: what is not a regular file", async (t) => {
  const dir = await scratch(t);
  const path = await writeFiles(dir, "model", without(singleFiles(), "model.safetensors"));
  execFileSync("mkfifo", [join(path, "model.safetensors")]);
  await rejectsWith(open(path, dir), "checkpoint_corrupt", "not a regular file");
  await rm(join(path, "model.safetensors"));
  await mkdir(join(path, "model.safetensors"));
  await rejectsWith(open(path, dir), "checkpoint_corrupt", "not a regular file");
  await rm(join(path, "model.safetensors"), { recursive: true });
  await symlink("/dev/zero", join(path, "model.safetensors"));
  await rejectsWith(open(path, dir), "forbidden");
  await rejectsWith(open(path, "/"), "checkpoint_corrupt", "not a regular file");
});

test("refused: places outside the import roots, whether they exist or not, and with the same words", async (t) => {
  const dir = await scratch(t);
  const root = await writeFiles(dir, "root", {});
  const outside = await writeFiles(dir, "outside", singleFiles());
  const sibling = await writeFiles(dir, "root-sibling", singleFiles());
  const seen = [];
  for (const path of [outside, sibling, join(dir, "absent"), join(root, "..", "outside"), "/etc/passwd"]) {
    const error: unknown = await open(path, root).catch((reason: unknown) => reason);
    assert.ok(error instanceof CodedError && error.code === "forbidden", `${path}: ${String(error)}`);
    seen.push(error.message.replace(JSON.stringify(path), ""));
  }
  assert.equal(new Set(seen).size, 1);
  await rejectsWith(open(outside), "forbidden", "no import roots");
  await rejectsWith(open("relative/path", root), "invalid_request", "absolute");
  await rejectsWith(open(`${root}/a\0b`, root), "invalid_request");
  await rejectsWith(open(join(root, "absent"), root), "checkpoint_missing_file");
  await writeFile(join(root, "file"), "");
  await rejectsWith(open(join(root, "file"), root), "checkpoint_corrupt", "not a directory");
});
