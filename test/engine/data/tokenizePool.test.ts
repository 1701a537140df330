import assert from "node:assert/strict";
import { test } from "node:test";
import type { TokenizeBatch } from "../../../src/engine/data/tokenizePool.ts";
import { encodeBatch, tokenizeBatches } from "../../../src/engine/data/tokenizePool.ts";
import { createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

function batchOf(...texts: string[]): TokenizeBatch {
  return { texts, endsDocument: texts.map(() => true), eosTokenId: 257 };
}

async function* batchesOf(count: number, onMade: () => void = () => undefined): AsyncGenerator<TokenizeBatch> {
  for (let i = 0; i < count; i++) {
    onMade();
    // The first are the longest, so that later ones are ready before them.
    yield await Promise.resolve(batchOf(String(i).repeat(20_000 >> i)));
  }
}

const bytes = { ref: { kind: "bytes" }, blobs: {}, signal: new AbortController().signal } as const;

test("a batch has its texts in order and an end-of-sequence token where a document ends", () => {
  const batch = { texts: ["ab", "", "c"], endsDocument: [false, true, true], eosTokenId: 257 };
  assert.deepEqual(Array.from(encodeBatch(createBytesTokenizer(), batch)), [97, 98, 257, 99, 257]);
});

test("batches come back in order, whichever thread is done first", async () => {
  for (const threads of [1, 3]) {
    const firsts: number[] = [];
    for await (const { ids } of tokenizeBatches(batchesOf(10), { ...bytes, threads })) firsts.push(ids[0] ?? -1);
    assert.deepEqual(firsts, [..."0123456789"].map((digit) => digit.charCodeAt(0)));
  }
});

const llama = sharedData("checkpoints", "stories260K", "tokenizer.json");
test("a thread reads the tokenizer that the manifest names", needsShared(llama), async () => {
  const blobs = { a: { path: llama ?? "", sizeBytes: 1, mtimeMs: null } };
  const files = [{ name: "tokenizer.json", blob: "a", sizeBytes: 1 }];
  const ref = { kind: "checkpoint", checkpoint: "ckpt_a", files } as const;
  async function* one(): AsyncGenerator<TokenizeBatch> {
    yield await Promise.resolve({ texts: ["Once upon a time"], endsDocument: [true], eosTokenId: 2 });
  }
  const found: number[][] = [];
  for await (const { ids } of tokenizeBatches(one(), { ...bytes, ref, blobs, threads: 1 })) found.push(Array.from(ids));
  assert.deepEqual(found, [[403, 407, 261, 378, 2]]);
});

test("no more batches are read than the threads can hold", async () => {
  let made = 0;
  let taken = 0;
  for await (const { ids } of tokenizeBatches(batchesOf(10, () => made++), { ...bytes, threads: 2 })) {
    assert.ok(ids.length > 0);
    taken += 1;
    assert.ok(made - taken <= 2 * 2, `${made} made when ${taken} were taken`);
  }
  assert.equal(taken, 10);
});

test("a tokenizer that cannot be loaded fails every batch with its own error", async () => {
  const ref = { kind: "checkpoint", checkpoint: "ckpt_a", files: [] } as const;
  const read = async (): Promise<void> => {
    for await (const answer of tokenizeBatches(batchesOf(3), { ...bytes, ref, threads: 2 })) assert.fail(String(answer));
  };
  await assert.rejects(read, (error: unknown) => error instanceof CodedError && error.code === "tokenizer_invalid");
});

test("an abort ends the stream at once, also while a thread is busy", async () => {
  const controller = new AbortController();
  const read = async (): Promise<void> => {
    for await (const { ids } of tokenizeBatches(batchesOf(1000), { ...bytes, threads: 2, signal: controller.signal })) {
      assert.ok(ids.length > 0);
      controller.abort();
    }
  };
  await assert.rejects(read, (error: unknown) => error instanceof CodedError && error.code === "cancelled");
});
