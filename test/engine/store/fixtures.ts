/** Small rows for tests of the store: manifests whose blobs are real files, but hold no model. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { CheckpointManifest, DatasetManifest } from "../../../src/ops/manifest.ts";
import type { TrainingState } from "../../../src/ops/events.ts";
import type { TensorRef } from "../../../src/ops/tensor.ts";
import type { NewBlob } from "../../../src/ops/events.ts";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import type { Claimant, Enqueue, NewJob } from "../../../src/engine/store/jobTypes.ts";
import type { NewCheckpoint } from "../../../src/engine/store/types.ts";

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "cambium-test-"));
}

/** Writes a blob into the blob directory. */
export function putBlob(blobDir: string, content: string): NewBlob {
  const digest = createHash("sha256").update(content).digest("hex");
  const path = blobPath(blobDir, digest);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return { digest, sizeBytes: Buffer.byteLength(content) };
}

export function tensorIn(blob: NewBlob, name: string, elements = 4): TensorRef {
  return {
    name,
    dtype: "F32",
    shape: [elements],
    blob: blob.digest,
    offset: 0,
    sizeBytes: 4 * elements,
    sha256: blob.digest,
  };
}

const config = {
  ...{ vocabSize: 8, hiddenSize: 4, intermediateSize: 8, numHiddenLayers: 1, numAttentionHeads: 1, headDim: 4 },
  ...{ numKeyValueHeads: 1, maxPositionEmbeddings: 16, rmsNormEps: 1e-5, ropeTheta: 10_000, ropeScaling: null },
  ...{ tieWordEmbeddings: true, attentionBias: false, mlpBias: false, initializerRange: 0.02 },
  ...{ bosTokenId: null, eosTokenIds: [] },
};

export function manifestOf(...blobs: NewBlob[]): CheckpointManifest {
  const tensors = blobs.map((blob, index) => tensorIn(blob, index === 0 ? "model.embed_tokens.weight" : `t${index}`));
  return { architecture: "llama", config, configJson: {}, tensors, files: [], original: null, optimizer: null };
}

export function checkpointOf(blobs: NewBlob[], more: Partial<NewCheckpoint> = {}): NewCheckpoint {
  return {
    ...{ name: null, manifest: manifestOf(...blobs), digest: "d".repeat(64), relation: "imported", parents: [] },
    ...{ tokensSeen: 0, flopsSpent: 0, dataSeen: {}, receipt: null, metadata: {}, job: null },
    blobs: blobs.map((blob) => ({ ...blob, external: null })),
    ...more,
  };
}

export function datasetManifestOf(blob: NewBlob): DatasetManifest {
  return {
    ...{ tokenizer: { kind: "bytes" }, vocabSize: 258, eosTokenId: 257, tokenDtype: "u16", validation: [] },
    ...{ train: [{ blob: blob.digest, numTokens: 2 }], numTokens: 2, numValidationTokens: 0 },
    ...{ numDocuments: 1, numValidationDocuments: 0, digest: "e".repeat(64) },
  };
}

export function stateOf(step: number, blob: NewBlob): TrainingState {
  return {
    ...{ step, tokens: step * 10, flops: step * 100, position: step * 10, lastLoss: 1, lastValidationLoss: null },
    weights: [tensorIn(blob, "w")],
    optimizer: { type: "adamw", step, firstMoments: [], secondMoments: [] },
  };
}

export function jobOf(more: Partial<NewJob> = {}): NewJob {
  return {
    kind: "training",
    request: {},
    maxAttempts: 3,
    backend: null,
    needsBytes: null,
    checkpoints: [],
    datasets: [],
    evaluation: null,
    ...more,
  };
}

/** An `enqueue` that writes no entry: tests of the store hand entries to `claim` themselves. */
export function fakeEntries(): { enqueue: Enqueue; last(): string; delays: number[] } {
  let count = 0;
  const delays: number[] = [];
  const enqueue: Enqueue = (_handle, _job, delayMs) => {
    delays.push(delayMs);
    return Promise.resolve({ entry: `entry${++count}`, selector: "compute.auto.0.nothing" });
  };
  return { enqueue, delays, last: () => `entry${count}` };
}

/** A worker that can do everything. */
export function claimant(worker: string): Claimant {
  return { worker, canDo: () => true, enqueue: fakeEntries().enqueue };
}
