/** From a text file to a better model: stories260K goes on training on Shakespeare, which it has never seen. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { buildDataset } from "../../../src/engine/data/buildDataset.ts";
import type { ResolvedCheckpoint, ResolvedDataset } from "../../../src/ops/manifest.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { collect, resultOf, temporaryFolder, tinyWork } from "./trainerFixture.ts";

const stories = sharedData("checkpoints", "stories260K");
const shakespeare = sharedData("text", "tinyshakespeare", "input.txt");
const never = new AbortController().signal;

async function shakespeareFor(checkpoint: ResolvedCheckpoint, folder: string): Promise<ResolvedDataset> {
  const { manifest, blobs } = await buildDataset({
    source: { type: "text", text: readFileSync(shakespeare as string, "utf8").slice(0, 120_000) },
    tokenizer: { kind: "checkpoint", checkpoint: checkpoint.id, files: checkpoint.manifest.files },
    tokenizerBlobs: checkpoint.blobs,
    validationFraction: 0.1,
    seed: 1,
    blobDir: folder,
    signal: never,
    onProgress: () => undefined,
    threads: 1,
  });
  return {
    id: "data_shakespeare",
    manifest,
    blobs: Object.fromEntries(blobs.map((blob) => [blob.digest, blobLocation(folder, blob)])),
  };
}

test(
  "wasm: a trained model goes on to learn text of another kind, and so does its stack of twice the depth",
  needsShared(stories, shakespeare),
  async () => {
    const folder = temporaryFolder();
    const base = resolveFolder(stories as string);
    const dataset = await shakespeareFor(base, join(folder, "blobs"));
    const { manifest } = base;
    const depth = manifest.config.numHiddenLayers;
    const copies = manifest.tensors.flatMap((tensor) => {
      const match = /^model\.layers\.(\d+)\.(.*)$/.exec(tensor.name);
      return match ? [{ ...tensor, name: `model.layers.${Number(match[1]) + depth}.${match[2]}` }] : [];
    });
    const config = { ...manifest.config, numHiddenLayers: 2 * depth };
    const stacked = { ...base, manifest: { ...manifest, config, tensors: [...manifest.tensors, ...copies] } };
    for (const checkpoint of [base, stacked]) {
      const work: TrainWork = {
        ...tinyWork(checkpoint, dataset, join(folder, "blobs")),
        tokens: 16 * 1024,
        batchTokens: 1024,
        sequenceLength: 128,
        microBatchSequences: null,
        schedule: { type: "cosine", warmupSteps: 4, totalSteps: 16, minLearningRate: 1e-4, decaySteps: 0 },
        optimizer: {
          type: "adamw",
          learningRate: 2e-3,
          betas: [0.9, 0.95],
          eps: 1e-8,
          weightDecay: 0.1,
          decay: "matrices",
          clip: 1,
        },
        skipTokens: 0,
        validateEveryTokens: null,
        validationTokens: 2048,
      };
      const events = await collect(getBackend("wasm").train(work, never));
      const losses = events.flatMap((event) => (event.type === "metrics" ? [event.point.loss as number] : []));
      const { validationLoss } = resultOf(events);
      // The first loss is from before the first update, on text that is as new to the model as the held-out part.
      assert.ok(validationLoss! < losses[0]! - 0.5, `loss ${losses[0]} to ${validationLoss} on held-out text`);
    }
  },
);
