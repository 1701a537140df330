/**
 * A tiny random model that has a tokenizer.json (one token per printable character, and a few special ones), a chat
 * template and a generation_config.json, each of which a test may replace.
 */
import { statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { BlobLocation, FileRef, ResolvedCheckpoint } from "../../src/ops/manifest.ts";
import { tinyCheckpoint } from "./tinyCheckpoint.ts";

export const chatTokens = { "<s>": 130, "<|user|>": 131, "<|assistant|>": 132, "<|end|>": 133, "<unk>": 134 } as const;

export const chatTemplate = `{{ bos_token }}{% for message in messages %}
  {%- if message.role not in ["user", "assistant"] %}{{ raise_exception("only user and assistant speak here") }}{% endif %}
  {{- "<|" + message.role + "|>" + message.content + "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|assistant|>" }}{% endif %}`;

/** @param more tokens with their ids, beside the printable characters and the special ones */
export function chatTokenizerJson(more: readonly (readonly [token: string, id: number])[] = []): object {
  const characters = Array.from({ length: 95 }, (_, i) => [String.fromCharCode(32 + i), 32 + i] as const);
  const special = Object.entries(chatTokens);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map(([content, id]) => {
      return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    }),
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: "." }, behavior: "Isolated", invert: false },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [chatTokens["<s>"]], tokens: ["<s>"] } },
    },
    decoder: { type: "Fuse" },
    model: {
      type: "BPE",
      vocab: Object.fromEntries([...more, ...characters, ...special]),
      merges: [],
      unk_token: "<unk>",
    },
  };
}

/** @param files contents by name; null leaves the file out */
export function chatCheckpoint(
  id: string,
  files: Readonly<Record<string, string | null>> = {},
): { checkpoint: ResolvedCheckpoint; remove(): void } {
  const config = { vocabSize: 140, eosTokenIds: [], bosTokenId: chatTokens["<s>"], maxPositionEmbeddings: 512 };
  const { checkpoint, remove } = tinyCheckpoint({ id, seed: 9, bytes: false, config });
  const folder = dirname(checkpoint.blobs["weights"]!.path);
  const contents: Record<string, string | null> = {
    "tokenizer.json": JSON.stringify(chatTokenizerJson()),
    "tokenizer_config.json": JSON.stringify({ bos_token: "<s>", unk_token: "<unk>", chat_template: chatTemplate }),
    ...files,
  };
  const refs: FileRef[] = [];
  const blobs: Record<string, BlobLocation> = { ...checkpoint.blobs };
  for (const [name, content] of Object.entries(contents)) {
    if (content === null) continue;
    const path = join(folder, name);
    writeFileSync(path, content);
    const sizeBytes = statSync(path).size;
    refs.push({ name, blob: `${id}/${name}`, sizeBytes });
    blobs[`${id}/${name}`] = { path, sizeBytes, mtimeMs: null };
  }
  return { checkpoint: { id, manifest: { ...checkpoint.manifest, files: refs }, blobs }, remove };
}
