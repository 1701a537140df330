/** The tokenizers of the shared data with the golden vectors that Hugging Face's own software made of them. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Tokenizer } from "../../../src/engine/tokenizer/tokenizer.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import { sharedData } from "../../helpers/shared.ts";

export interface GoldenVector {
  text: string;
  ids: number[];
  ids_special: number[];
  decoded: string;
  decoded_skip: string;
  decoded_special: string;
  decoded_special_skip: string;
}

export interface Golden {
  vocab_size: number;
  vectors: GoldenVector[];
  decode_only: { ids: number[]; decoded: string; decoded_skip: string }[];
}

/** Name of the golden file -> where its tokenizer.json lies. */
export const goldenSources: Readonly<Record<string, string[]>> = {
  gpt2: ["tokenizers", "gpt2", "tokenizer.json"],
  "gpt-neox-olmo": ["tokenizers", "gpt-neox-olmo", "tokenizer.json"],
  "llama2-32k": ["tokenizers", "llama2-32k", "tokenizer.json"],
  "tok512-stories260K": ["checkpoints", "stories260K", "tokenizer.json"],
  "syn-llama3style": ["golden", "hf", "tokenizers", "files", "syn-llama3style.tokenizer.json"],
  "syn-metaspace-first-bos-eos": ["golden", "hf", "tokenizers", "files", "syn-metaspace-first-bos-eos.tokenizer.json"],
};

export function loadGoldenTokenizer(name: string): Tokenizer {
  const path = sharedData(...(goldenSources[name] ?? []));
  if (path === null) throw new Error(`no shared data for ${name}`);
  const config = join(path, "..", "tokenizer_config.json");
  return loadTokenizer({
    tokenizerJson: readFileSync(path),
    tokenizerConfigJson: existsSync(config) ? readFileSync(config) : undefined,
  });
}

export function readGolden(name: string): Golden {
  const path = sharedData("golden", "hf", "tokenizers", `${name}.json`);
  if (path === null) throw new Error(`no golden values for ${name}`);
  return JSON.parse(readFileSync(path, "utf8")) as Golden;
}
