/**
 * Which files of a Hugging Face directory a checkpoint consists of, and what they are called. Everything
 * else in a directory, pickles above all, is never opened.
 */
import { CodedError } from "../../ops/errors.ts";
import { quoted } from "./strictJson.ts";

export const configFileName = "config.json";
export const weightsFileName = "model.safetensors";

/** Bytes of `config.json`, at most. */
export const maxConfigBytes = 1 << 20;
/** Bytes of one companion file, at most; the largest published tokenizer.json have about 35 MB. */
export const maxCompanionBytes = 64 << 20;

/** Small files that travel with a checkpoint verbatim: tokenizer, generation settings, chat template, papers. */
export const companionFileNames: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "generation_config.json",
  "chat_template.jinja",
  "chat_template.json",
  "README.md",
  "LICENSE",
  "LICENSE.txt",
  "LICENSE.md",
  "NOTICE",
  "USE_POLICY.md",
];

const companions = new Set(companionFileNames);

/** @returns whether a file of that name is carried along verbatim. */
export function isCompanion(name: string): boolean {
  return companions.has(name);
}

/** @returns whether a name is that of a pickled weights file. */
export function isPickle(name: string): boolean {
  return /\.(bin|pt|pth|pkl|ckpt|h5|msgpack)$/i.test(name) && !name.startsWith("training_args");
}

/** @returns the MIME type under which a file of the view is sent. */
export function contentTypeOf(name: string): string {
  if (name.endsWith(".json")) return "application/json";
  if (name.endsWith(".txt") || name.endsWith(".jinja") || !name.includes(".")) return "text/plain; charset=utf-8";
  if (name.endsWith(".md")) return "text/markdown; charset=utf-8";
  return "application/octet-stream";
}

/** The error for a place without weights that can be read. */
export function noWeights(names: Iterable<string>): CodedError {
  for (const name of names) {
    if (!isPickle(name)) continue;
    const hint = "a pickle may run code and is never opened; convert the checkpoint to safetensors";
    return new CodedError("checkpoint_unsupported", `only pickled weights (${quoted(name)}): ${hint}`);
  }
  const wanted = `${weightsFileName} or model.safetensors.index.json`;
  return new CodedError("checkpoint_missing_file", `no weights: ${wanted} wanted`);
}
