/**
 * Tokenizers kept by what they are made of: two checkpoints with the same tokenizer files (a base and what was
 * grown from it) share one. Bounded, the one used longest ago goes first.
 */
import { tokenizerOf } from "../../ops/manifest.ts";
import type { BlobLocation, ResolvedCheckpoint, TokenizerRef } from "../../ops/manifest.ts";
import { tokenizerFileNames } from "../tokenizer/loadTokenizer.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Which tokenizer, and where its files lie. */
export interface TokenizerSource {
  readonly ref: TokenizerRef;
  readonly blobs: Readonly<Record<string, BlobLocation>>;
}

export interface TokenizerCache {
  /** @throws tokenizer_invalid, checkpoint_missing_file */
  get(source: TokenizerSource): Promise<Tokenizer>;
}

/** A tokenizer of 128,000 tokens takes about 100 MB. */
const maxTokenizers = 4;

/** @returns where the tokenizer of a checkpoint comes from, or null when it speaks token ids only. */
export function tokenizerSource(checkpoint: ResolvedCheckpoint): TokenizerSource | null {
  const ref = tokenizerOf(checkpoint.id, checkpoint.manifest);
  if (ref === null || ref.kind === "bytes") return ref === null ? null : { ref, blobs: {} };
  const names: readonly string[] = tokenizerFileNames;
  const files = ref.files.filter((file) => names.includes(file.name));
  // Not all blobs: a large checkpoint names many, and this crosses to a thread.
  const needed = new Set(files.map((file) => file.blob));
  const located = Object.entries(checkpoint.blobs).filter(([blob]) => needed.has(blob));
  return { ref: { ...ref, files }, blobs: Object.fromEntries(located) };
}

export function createTokenizerCache(
  load: (ref: TokenizerRef, blobs: Readonly<Record<string, BlobLocation>>) => Promise<Tokenizer>,
): TokenizerCache {
  const kept = new Map<string, Promise<Tokenizer>>();
  return {
    get({ ref, blobs }) {
      const key = keyOf(ref);
      const loading = kept.get(key) ?? load(ref, blobs);
      // A Map keeps the order of insertion: the one used now goes to the end.
      kept.delete(key);
      kept.set(key, loading);
      loading.catch(() => kept.get(key) === loading && kept.delete(key));
      for (const oldest of kept.keys()) {
        if (kept.size <= maxTokenizers) break;
        kept.delete(oldest);
      }
      return loading;
    },
  };
}

function keyOf(ref: TokenizerRef): string {
  if (ref.kind === "bytes") return "bytes";
  return ref.files
    .map((file) => `${file.name}=${file.blob}`)
    .sort()
    .join(",");
}
