/** Small checkpoints and files built in the test, and a directory of the test's own to put them in. */
import { mkdtemp, mkdir, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import assert from "node:assert/strict";
import { expectedTensors, parseLlamaConfig } from "../../../src/ops/architectures/index.ts";
import { encodeFromF32 } from "../../../src/ops/dtype.ts";
import { CodedError, type ErrorCode } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import type { Dtype, TensorInfo } from "../../../src/ops/tensor.ts";
import { formatHeader } from "../../../src/engine/checkpoint/safetensors.ts";

/** @returns a new directory, without links in its path, removed when the test ends. */
export async function scratch(t: TestContext): Promise<string> {
  const path = await realpath(await mkdtemp(join(tmpdir(), "cambium-checkpoint-")));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Asserts that `work` fails with the code, and that its message holds the words. */
export async function rejectsWith(work: Promise<unknown>, code: ErrorCode, words?: string | RegExp): Promise<void> {
  await assert.rejects(work, (error: unknown) => matches(error, code, words));
}

/** The same for work that throws at once. */
export function throwsWith(work: () => unknown, code: ErrorCode, words?: string | RegExp): void {
  assert.throws(work, (error: unknown) => matches(error, code, words));
}

function matches(error: unknown, code: ErrorCode, words: string | RegExp | undefined): true {
  assert.ok(error instanceof CodedError, `a CodedError wanted, got ${String(error)}`);
  assert.equal(error.code, code, error.message);
  if (typeof words === "string") assert.ok(error.message.includes(words), `${error.message} does not say ${words}`);
  else if (words !== undefined) assert.match(error.message, words);
  return true;
}

/** Bytes of a safetensors file with any header text, honest or not, and any data. */
export function rawFile(header: string | Uint8Array, data: Uint8Array | number = 0, headerLength?: bigint): Uint8Array {
  const json = typeof header === "string" ? Buffer.from(header, "utf8") : header;
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, headerLength ?? BigInt(json.length), true);
  return Buffer.concat([prefix, json, typeof data === "number" ? new Uint8Array(data) : data]);
}

/** A tiny Llama: hidden 8, two heads, one layer, 16 tokens; untied. */
export const tinyConfig: JsonObject = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 8,
  head_dim: 4,
  intermediate_size: 12,
  max_position_embeddings: 32,
  num_attention_heads: 2,
  num_hidden_layers: 1,
  num_key_value_heads: 1,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: false,
  torch_dtype: "float32",
  vocab_size: 16,
};

export interface TinyTensor extends TensorInfo {
  readonly bytes: Uint8Array;
}

/** @returns the tensors of a configuration, with values that differ from tensor to tensor. */
export function tinyTensors(config: JsonObject = tinyConfig, dtype: Dtype = "F32"): TinyTensor[] {
  return expectedTensors(parseLlamaConfig(config), dtype).map((info, index) => tinyTensor(info, index));
}

/** @returns one tensor with values made from `salt`. */
export function tinyTensor(info: TensorInfo, salt: number): TinyTensor {
  const count = info.shape.reduce((product, extent) => product * extent, 1);
  const values = Float32Array.from({ length: count }, (_unused, at) => Math.fround(Math.sin(at + salt * 7)));
  return { ...info, bytes: encodeFromF32(values, info.dtype) };
}

/** @returns the bytes of an honest safetensors file. */
export function fileOf(tensors: readonly TinyTensor[]): Uint8Array {
  const layout = formatHeader(tensors, { format: "pt" });
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor.bytes]));
  return Buffer.concat([layout.bytes, ...layout.tensors.map((entry) => byName.get(entry.name) as Uint8Array)]);
}

export const shardNames = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;

/** The files of a checkpoint by name; a test changes what it wants to lie about before writing them. */
export type Files = Record<string, Uint8Array | string>;

export function singleFiles(config: JsonObject = tinyConfig, dtype: Dtype = "F32"): Files {
  return { "config.json": JSON.stringify(config), "model.safetensors": fileOf(tinyTensors(config, dtype)) };
}

export function shardedFiles(
  edit: (weightMap: Record<string, string>, shards: TinyTensor[][]) => void = () => {},
): Files {
  const tensors = tinyTensors();
  const shards = [tensors.slice(0, 6), tensors.slice(6)];
  const weightMap: Record<string, string> = {};
  shards.forEach((shard, at) => shard.forEach(({ name }) => (weightMap[name] = shardNames[at] as string)));
  edit(weightMap, shards);
  return {
    "config.json": JSON.stringify(tinyConfig),
    "model.safetensors.index.json": JSON.stringify({ metadata: { total_size: 1 }, weight_map: weightMap }),
    [shardNames[0]]: fileOf(shards[0] as TinyTensor[]),
    [shardNames[1]]: fileOf(shards[1] as TinyTensor[]),
  };
}

/** Writes files into a new folder. @returns its path */
export async function writeFiles(parent: string, name: string, files: Files): Promise<string> {
  const folder = join(parent, name);
  await mkdir(folder, { recursive: true });
  for (const [file, content] of Object.entries(files)) await writeFile(join(folder, file), content);
  return folder;
}
