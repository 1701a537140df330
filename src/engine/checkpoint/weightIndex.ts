/**
 * `model.safetensors.index.json`: which shard holds which tensor. Its file names come from a stranger and
 * are only ever names: nothing with a path, a scheme, a leading dot or another ending gets through, which
 * is where several loaders could be led out of the directory (transformers #46097, #47176).
 */
import { CodedError } from "../../ops/errors.ts";
import { parseStrictJson, quoted } from "./strictJson.ts";

/** Bytes of an index, at most; the largest published ones have 13.5 MB. */
export const maxIndexBytes = 64 << 20;
/** Shards of one checkpoint, at most. */
export const maxShards = 4096;
export const indexFileName = "model.safetensors.index.json";

const maxFileNameLength = 200;

export interface WeightIndex {
  /** Tensor name -> shard file name, in the order of the file. */
  readonly shardOf: ReadonlyMap<string, string>;
  /** The shard names, each once, sorted. */
  readonly shards: readonly string[];
}

function fail(problem: string): never {
  throw new CodedError("checkpoint_corrupt", `${indexFileName}: ${problem}`);
}

/** @returns why `name` must not name a shard, or null. */
export function shardNameProblem(name: string): string | null {
  if (name.includes("\0")) return "holds a NUL";
  if (/^[a-zA-Z][a-zA-Z0-9+.-]*:/.test(name)) return "is a URL";
  if (name.startsWith("/")) return "is an absolute path";
  if (name.includes("\\")) return "holds a backslash";
  if (name === ".." || name.startsWith("../") || name.includes("/../")) return "leaves the directory";
  if (name.startsWith(".")) return "begins with a dot";
  if (name.includes("/")) return "lies in a sub directory";
  if (name.length > maxFileNameLength) return `has more than ${maxFileNameLength} characters`;
  if (/\.(bin|pt|pth|pkl|ckpt)$/i.test(name)) return "is a pickle, which may run code; convert it to safetensors";
  if (!name.endsWith(".safetensors")) return "does not end in .safetensors";
  if (!/^[A-Za-z0-9._ +=@-]+$/.test(name)) return "holds characters other than letters, digits and . _ + = @ -";
  return null;
}

/** @throws checkpoint_corrupt naming the tensor or the file name that lies */
export function parseWeightIndex(bytes: Uint8Array): WeightIndex {
  const root = parseStrictJson(bytes, { what: indexFileName, code: "checkpoint_corrupt", maxDepth: 16 });
  if (!(root instanceof Map)) fail("not a JSON object");
  const map = root.get("weight_map");
  if (!(map instanceof Map)) fail("weight_map is missing or not an object");
  if (map.size === 0) fail("weight_map names no tensor");
  const shardOf = new Map<string, string>();
  const shards = new Set<string>();
  for (const [tensor, shard] of map) {
    if (tensor === "__proto__") fail("weight_map has a key __proto__");
    if (typeof shard !== "string") fail(`the shard of tensor ${quoted(tensor)} is not a string`);
    if (!shards.has(shard)) {
      const problem = shardNameProblem(shard);
      if (problem !== null) fail(`shard file name ${quoted(shard)} ${problem}`);
      shards.add(shard);
      if (shards.size > maxShards) fail(`more than ${maxShards} shards`);
    }
    shardOf.set(tensor, shard);
  }
  return { shardOf, shards: [...shards].sort() };
}
