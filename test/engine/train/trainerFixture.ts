/** A tiny model and a tiny dataset on disk, made from seeds, for tests of the trainer. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TrainResult, TrainWork } from "../../../src/engine/backends/work.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { writeTensors } from "../../../src/engine/checkpoint/writer.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import { elementCount } from "../../../src/ops/dtype.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import type { OptimizerRef, ResolvedCheckpoint, ResolvedDataset } from "../../../src/ops/manifest.ts";
import type { TensorRef } from "../../../src/ops/tensor.ts";
import { seededStream } from "../../../src/ops/rng.ts";

export const tinyConfig: LlamaConfig = {
  vocabSize: 29,
  hiddenSize: 12,
  intermediateSize: 20,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  numKeyValueHeads: 1,
  headDim: 6,
  maxPositionEmbeddings: 32,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: true,
  mlpBias: false,
  initializerRange: 0.02,
  bosTokenId: null,
  eosTokenIds: [],
};

const folders: string[] = [];

/** A folder that goes with the process. */
export function temporaryFolder(): string {
  if (folders.length === 0) {
    process.once("exit", () => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));
  }
  const folder = mkdtempSync(join(tmpdir(), "cambium-train-"));
  folders.push(folder);
  return folder;
}

/** A random checkpoint in `blobDir`, or one of given tensors that lie there. */
export async function tinyCheckpoint(
  blobDir: string,
  given?: { tensors: readonly TensorRef[]; optimizer: OptimizerRef | null },
): Promise<ResolvedCheckpoint> {
  const sizes = new Map<string, number>();
  let tensors = given?.tensors;
  if (!tensors) {
    const written = await writeTensors(
      blobDir,
      expectedTensors(tinyConfig).map((info) => ({
        info,
        data: () => seededStream(11, info.name).fillNormal(new Float32Array(elementCount(info.shape)), 0.3),
      })),
    );
    tensors = written.tensors;
    sizes.set(written.blob.digest, written.blob.sizeBytes);
  }
  const optimizer = given?.optimizer ?? null;
  const all = [...tensors, ...(optimizer?.firstMoments ?? []), ...(optimizer?.secondMoments ?? [])];
  for (const { blob, offset, sizeBytes } of all) sizes.set(blob, Math.max(sizes.get(blob) ?? 0, offset + sizeBytes));
  return {
    id: "ckpt_tiny",
    manifest: {
      architecture: "llama",
      config: tinyConfig,
      configJson: {},
      tensors,
      files: [],
      original: null,
      optimizer,
    },
    blobs: Object.fromEntries(
      [...sizes].map(([digest, sizeBytes]) => [digest, blobLocation(blobDir, { digest, sizeBytes })]),
    ),
  };
}

/**
 * Ids with a pattern that can be learned: each is the one before plus 1 or 2, by a fixed rule.
 * @param noise share of ids that are any id instead, which cannot be learned
 */
function patternedIds(count: number, vocab: number, noise: number): Uint16Array {
  const { uniform } = seededStream(5, `${count}`);
  const any = (): number | null => (noise > 0 && uniform() < noise ? Math.floor(uniform() * vocab) : null);
  return Uint16Array.from({ length: count }, (_, i) => any() ?? (i + Math.floor(i / 3)) % vocab);
}

export function tinyDataset(
  folder: string,
  options: { train?: number; validation?: number; vocab?: number; noise?: number } = {},
): ResolvedDataset {
  const { train = 400, validation = 90, vocab = tinyConfig.vocabSize, noise = 0 } = options;
  const shard = (side: string, count: number): { blob: string; numTokens: number; path: string } => {
    const name = `${side}-${count}-${vocab}-${noise}.u16`;
    const ids = patternedIds(count, vocab, noise);
    const path = join(folder, name);
    writeFileSync(path, new Uint8Array(ids.buffer));
    return { blob: createHash("sha256").update(name).digest("hex"), numTokens: count, path };
  };
  const shards = { train: shard("train", train), validation: shard("validation", validation) };
  const ref = ({ blob, numTokens }: { blob: string; numTokens: number }): { blob: string; numTokens: number }[] =>
    numTokens > 0 ? [{ blob, numTokens }] : [];
  return {
    id: "data_tiny",
    manifest: {
      tokenizer: { kind: "bytes" },
      vocabSize: vocab,
      eosTokenId: 0,
      tokenDtype: "u16",
      train: ref(shards.train),
      validation: ref(shards.validation),
      numTokens: train,
      numValidationTokens: validation,
      numDocuments: 1,
      numValidationDocuments: 1,
      digest: "",
    },
    blobs: Object.fromEntries(
      Object.values(shards).map(({ blob, numTokens, path }) => [
        blob,
        { path, sizeBytes: numTokens * 2, mtimeMs: null },
      ]),
    ),
  };
}

/** Six updates of 4 sequences of 8 tokens, two micro-batches each, validated every second one. */
export function tinyWork(checkpoint: ResolvedCheckpoint, dataset: ResolvedDataset, blobDir: string): TrainWork {
  return {
    checkpoint,
    dataset,
    blobDir,
    tokens: 6 * 32,
    batchTokens: 32,
    sequenceLength: 8,
    microBatchSequences: 2,
    optimizer: {
      type: "adamw",
      learningRate: 1e-2,
      betas: [0.9, 0.95],
      eps: 1e-8,
      weightDecay: 0.1,
      decay: "matrices",
      clip: 1,
    },
    schedule: { type: "cosine", warmupSteps: 2, totalSteps: 6, minLearningRate: 1e-3, decaySteps: 0 },
    seed: 0,
    skipTokens: 3,
    validateEveryTokens: 64,
    validationTokens: 64,
    saveEveryTokens: null,
    saveEveryMs: 1e9,
    keepOptimizerState: true,
    resume: null,
  };
}

/** Runs to the end; `onEvent` may abort or count. */
export async function collect(
  events: AsyncIterable<WorkEvent>,
  onEvent?: (event: WorkEvent) => void,
): Promise<WorkEvent[]> {
  const all: WorkEvent[] = [];
  for await (const event of events) {
    all.push(event);
    onEvent?.(event);
  }
  return all;
}

export function resultOf(events: readonly WorkEvent[]): TrainResult {
  const last = events.at(-1);
  if (last?.type !== "result") throw new Error(`the last event is ${last?.type}, not a result`);
  return last.result as TrainResult;
}

/** SHA-256 of every weight and moment, by name. */
export function digestsOf(state: TrainingState): Record<string, string> {
  const entries = (list: readonly TensorRef[], prefix: string): [string, string][] =>
    list.map(({ name, sha256 }) => [prefix + name, sha256]);
  const { optimizer } = state;
  return Object.fromEntries([
    ...entries(state.weights, ""),
    ...entries(optimizer.firstMoments, "m:"),
    ...entries(optimizer.secondMoments, "v:"),
  ]);
}
