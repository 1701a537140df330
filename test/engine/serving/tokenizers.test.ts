/** The tokenizer thread: right ids, bounded time, and a server that stays awake meanwhile. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TokenizerSource } from "../../../src/engine/serving/tokenizerCache.ts";
import { createTokenizerCache, tokenizerSource } from "../../../src/engine/serving/tokenizerCache.ts";
import { createTokenizers } from "../../../src/engine/serving/tokenizers.ts";
import { createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { TokenizerRef } from "../../../src/ops/manifest.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const folder = mkdtempSync(join(tmpdir(), "cambium-tokenizers-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const bytes: TokenizerSource = { ref: { kind: "bytes" }, blobs: {} };

/** A word-level tokenizer over single letters whose pre-tokenizer splits by `pattern`. */
function sourceOf(name: string, pattern: string): TokenizerSource {
  const path = join(folder, name);
  const vocab = Object.fromEntries([..."[abcdefghijklmnopqrstuvwxyz"].map((letter, id) => [letter, id]));
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab, merges: [], unk_token: "[", fuse_unk: false },
  };
  writeFileSync(path, JSON.stringify(json));
  const sizeBytes = statSync(path).size;
  return {
    ref: { kind: "checkpoint", checkpoint: name, files: [{ name: "tokenizer.json", blob: name, sizeBytes }] },
    blobs: { [name]: { path, sizeBytes, mtimeMs: null } },
  };
}

test("texts become ids and ids texts; errors keep their code", async () => {
  const tokenizers = createTokenizers();
  assert.deepEqual(await tokenizers.encode(bytes, ["a", "b\u00e9"], true), [
    [256, 97],
    [256, 98, 195, 169],
  ]);
  assert.deepEqual(await tokenizers.encode(sourceOf("letters", "."), ["abc"], false), [[1, 2, 3]]);
  assert.equal(await tokenizers.decode(bytes, [72, 105, 257]), "Hi<|eos|>");
  const gone: TokenizerSource = { ref: { ...sourceOf("gone", ".").ref } as TokenizerRef, blobs: {} };
  await assert.rejects(
    tokenizers.encode(gone, ["a"], true),
    (error) => error instanceof CodedError && error.code === "checkpoint_missing_file",
  );
  await tokenizers.close();
});

test("a regular expression that never ends is stopped, the server stays awake, and the next text is served", async () => {
  const tokenizers = createTokenizers({ timeoutMs: 1500 });
  const hostile = sourceOf("hostile", "(a+)+\\d");
  let ticks = 0;
  const timer = setInterval(() => ticks++, 20);
  const run = tokenizers.encode(hostile, [`${"a".repeat(60)}b`], false);
  await assert.rejects(run, (error) => error instanceof CodedError && error.code === "timeout");
  clearInterval(timer);
  assert.ok(ticks > 20, `${ticks} ticks of the event loop`);
  assert.deepEqual(await tokenizers.encode(bytes, ["a"], false), [[97]]);
  await tokenizers.close();
});

test("tokenizers are kept by content, a few at a time, and a failed load is tried again", async () => {
  const loads: string[] = [];
  let broken = true;
  const cache = createTokenizerCache(async (ref) => {
    loads.push(ref.kind === "bytes" ? "bytes" : ref.files[0]!.blob);
    if (broken) throw new CodedError("tokenizer_invalid", "not yet");
    return createBytesTokenizer();
  });
  const named = (blob: string, checkpoint = blob): TokenizerSource => ({
    ref: { kind: "checkpoint", checkpoint, files: [{ name: "tokenizer.json", blob, sizeBytes: 1 }] },
    blobs: {},
  });
  await assert.rejects(cache.get(named("a")));
  broken = false;
  await sleep(0);
  await cache.get(named("a"));
  await cache.get(named("a", "grown from a"));
  assert.deepEqual(loads, ["a", "a"]);
  for (const blob of ["b", "c", "a", "d", "e", "a", "b"]) await cache.get(named(blob));
  assert.deepEqual(loads, ["a", "a", "b", "c", "d", "e", "b"]);
});

test("a checkpoint speaks through its files, through bytes, or not at all", () => {
  const spoken = tinyCheckpoint();
  const silent = tinyCheckpoint({ bytes: false });
  assert.deepEqual(tokenizerSource(spoken.checkpoint), { ref: { kind: "bytes" }, blobs: {} });
  assert.equal(tokenizerSource(silent.checkpoint), null);
  spoken.remove();
  silent.remove();
});
