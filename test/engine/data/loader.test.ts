import assert from "node:assert/strict";
import { truncate, writeFile } from "node:fs/promises";
import { test } from "node:test";
import type { Batch } from "../../../src/engine/data/loader.ts";
import { createBatchLoader, validationBatches } from "../../../src/engine/data/loader.ts";
import { ShardWriter } from "../../../src/engine/data/shardWriter.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { ResolvedDataset } from "../../../src/ops/manifest.ts";
import type { Workplace } from "./fixtures.ts";
import { createWorkplace } from "./fixtures.ts";

interface Sides {
  train: number;
  validation?: number;
  dtype?: "u16" | "u32";
  vocabSize?: number;
}

/** A dataset whose training token i is i, and whose validation token i is 1000 + i, in shards of 7 tokens. */
async function counting(workplace: Workplace, sides: Sides): Promise<ResolvedDataset> {
  const dtype = sides.dtype ?? "u16";
  const write = async (length: number, first: number): Promise<ShardWriter> => {
    const writer = new ShardWriter(workplace.blobDir, dtype, 7);
    await writer.write(Uint32Array.from({ length }, (_, i) => first + i));
    await writer.finish();
    return writer;
  };
  const train = await write(sides.train, 0);
  const validation = await write(sides.validation ?? 0, 1000);
  const blobs = [...train.blobs, ...validation.blobs];
  return {
    id: "data_count",
    manifest: {
      tokenizer: { kind: "bytes" },
      vocabSize: sides.vocabSize ?? 100_000,
      eosTokenId: 0,
      tokenDtype: dtype,
      train: train.shards,
      validation: validation.shards,
      numTokens: train.numTokens,
      numValidationTokens: validation.numTokens,
      numDocuments: 1,
      numValidationDocuments: 1,
      digest: "",
    },
    blobs: Object.fromEntries(blobs.map((blob) => [blob.digest, blobLocation(workplace.blobDir, blob)])),
  };
}

function rows(batch: Batch, field: "ids" | "targets"): number[][] {
  const { sequences, sequenceLength } = batch;
  return Array.from({ length: sequences }, (_, s) =>
    Array.from(batch[field].subarray(s * sequenceLength, (s + 1) * sequenceLength)),
  );
}

test("sequences follow each other in the stream, targets shifted by one, across shards", async () => {
  await using workplace = await createWorkplace();
  const loader = createBatchLoader(await counting(workplace, { train: 30 }), { sequenceLength: 4, position: 0 });
  const first = loader.next(2);
  assert.deepEqual(rows(first, "ids"), [[0, 1, 2, 3], [4, 5, 6, 7]]);
  assert.deepEqual(rows(first, "targets"), [[1, 2, 3, 4], [5, 6, 7, 8]]);
  assert.equal(first.position, 8);
  const second = loader.next(1);
  assert.deepEqual(rows(second, "ids"), [[8, 9, 10, 11]]);
  assert.equal(loader.position, 12);
  assert.equal(loader.epochTokens, 30);
  loader.close();
});

test("the stream goes on with the first token after the last, for as many epochs as wanted", async () => {
  await using workplace = await createWorkplace();
  const loader = createBatchLoader(await counting(workplace, { train: 10 }), { sequenceLength: 4, position: 0 });
  const batch = loader.next(6);
  const expected = Array.from({ length: 24 }, (_, i) => i % 10);
  assert.deepEqual(Array.from(batch.ids), expected);
  assert.deepEqual(Array.from(batch.targets), expected.map((id) => (id + 1) % 10));
  assert.equal(batch.position, 24, "the position counts tokens, not places in the epoch");
  loader.close();
});

test("a loader made at a position gives the same batches bit for bit", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 53 });
  const whole = createBatchLoader(dataset, { sequenceLength: 5, position: 0 });
  for (let step = 0; step < 20; step++) {
    const resumed = createBatchLoader(dataset, { sequenceLength: 5, position: whole.position });
    assert.deepEqual(resumed.next(3), whole.next(3));
    resumed.close();
  }
  whole.close();
});

test("micro-batches of any size make up the same stream, and skipping counts in tokens", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 53 });
  const whole = createBatchLoader(dataset, { sequenceLength: 6, position: 0 }).next(6);
  const parts = createBatchLoader(dataset, { sequenceLength: 6, position: 0 });
  assert.deepEqual([1, 2, 3].flatMap((count) => Array.from(parts.next(count).ids)), Array.from(whole.ids));
  // A base trained with sequences of 9 has seen as many tokens as its position says, whatever its sequences.
  const base = createBatchLoader(dataset, { sequenceLength: 9, position: 0 });
  const target = createBatchLoader(dataset, { sequenceLength: 6, position: base.next(2).position });
  assert.deepEqual(Array.from(target.next(1).ids), [18, 19, 20, 21, 22, 23]);
});

test("ids above 65535 are kept in four bytes", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 20, validation: 3, dtype: "u32" });
  const writer = new ShardWriter(workplace.blobDir, "u32");
  await writer.write(Uint32Array.of(70_000, 1, 99_999));
  await writer.finish();
  const blob = writer.blobs[0];
  assert.ok(blob);
  const manifest = { ...dataset.manifest, train: writer.shards };
  const blobs = { [blob.digest]: blobLocation(workplace.blobDir, blob) };
  const loader = createBatchLoader({ ...dataset, manifest, blobs }, { sequenceLength: 2, position: 0 });
  assert.deepEqual(rows(loader.next(1), "targets"), [[1, 99_999]]);
});

test("a dataset without one whole sequence is refused with both lengths", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 8 });
  createBatchLoader(dataset, { sequenceLength: 7, position: 0 }).next(1);
  assert.throws(() => createBatchLoader(dataset, { sequenceLength: 8, position: 0 }), (error: unknown) => {
    return error instanceof CodedError && error.code === "dataset_invalid" && /8 training tokens.*needs 9/.test(error.message);
  });
});

test("validation windows are fixed, do not overlap, and stop at the limit", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 8, validation: 23 });
  const batches = [...validationBatches(dataset, { sequenceLength: 4, sequences: 2, maxTokens: 1000 })];
  assert.deepEqual(batches.map((batch) => batch.sequences), [2, 2, 1]);
  assert.deepEqual(batches.flatMap((batch) => Array.from(batch.ids)), Array.from({ length: 20 }, (_, i) => 1000 + i));
  assert.deepEqual(batches.flatMap((batch) => Array.from(batch.targets)), Array.from({ length: 20 }, (_, i) => 1001 + i));
  const few = [...validationBatches(dataset, { sequenceLength: 4, sequences: 2, maxTokens: 11 })];
  assert.deepEqual(few.map((batch) => batch.sequences), [2]);
  assert.deepEqual([...validationBatches(dataset, { sequenceLength: 4, sequences: 2, maxTokens: 1000 })], batches);
});

test("a short held-out part is one short sequence, none gives none", async () => {
  await using workplace = await createWorkplace();
  const short = await counting(workplace, { train: 8, validation: 3 });
  const [batch] = [...validationBatches(short, { sequenceLength: 64, sequences: 8, maxTokens: 10 })];
  assert.ok(batch);
  assert.deepEqual(rows(batch, "ids"), [[1000, 1001]]);
  assert.deepEqual(rows(batch, "targets"), [[1001, 1002]]);
  for (const validation of [0, 1]) {
    const dataset = await counting(workplace, { train: 8, validation });
    assert.deepEqual([...validationBatches(dataset, { sequenceLength: 64, sequences: 8, maxTokens: 10 })], []);
  }
});

test("a damaged shard is an error that names it, never a wrong batch", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 20, vocabSize: 15 });
  const isInvalid = (message: RegExp) => (error: unknown) =>
    error instanceof CodedError && error.code === "dataset_invalid" && message.test(error.message);
  const options = { sequenceLength: 4, position: 12 };
  assert.throws(() => createBatchLoader(dataset, options).next(1), isInvalid(/token 1 is 15, below 15/));
  const whole = await counting(workplace, { train: 20 });
  const [shard] = whole.manifest.train;
  const path = whole.blobs[shard?.blob ?? ""]?.path ?? "";
  await truncate(path, 13);
  assert.throws(() => createBatchLoader(whole, { sequenceLength: 4, position: 0 }).next(1), isInvalid(/13 bytes, 14 are/));
  await writeFile(path, Buffer.alloc(14));
  const missing = { ...whole, blobs: {} };
  assert.throws(() => createBatchLoader(missing, { sequenceLength: 4, position: 0 }).next(1), isInvalid(/not here/));
});

test("a position or length that cannot be is refused", async () => {
  await using workplace = await createWorkplace();
  const dataset = await counting(workplace, { train: 20 });
  for (const options of [
    { sequenceLength: 0, position: 0 },
    { sequenceLength: 4, position: -1 },
    { sequenceLength: 4, position: 0.5 },
  ]) {
    assert.throws(() => createBatchLoader(dataset, options), CodedError);
  }
});
