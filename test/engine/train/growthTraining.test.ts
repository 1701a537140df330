/** Training grown models: copies that stay alike and copies that part, masks that tick, tensors that are kept. */
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { compareLogits } from "../../../src/engine/backends/compareLogits.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { readTensor } from "../../../src/engine/checkpoint/tensorReader.ts";
import { buildTensors } from "../../../src/engine/growth/growTensors.ts";
import { grownManifest } from "../../../src/engine/jobs/growthPlan.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { train } from "../../../src/engine/train/trainer.ts";
import { maskAfter, planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import type { TrainingState } from "../../../src/ops/events.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyConfig,
  tinyDataset,
  tinyWork,
} from "./trainerFixture.ts";

const folder = temporaryFolder();
const never = new AbortController().signal;
let kernels: Kernels;
let base: ResolvedCheckpoint;

before(async () => {
  await activateTfjs("wasm");
  ({ kernels } = await kernelsFor("wasm", "auto"));
  base = await tinyCheckpoint(folder);
});

async function grow(request: GrowthPlanRequest): Promise<ResolvedCheckpoint> {
  const plan = planGrowth(base.manifest, request);
  const { tensors, blobs } = await buildTensors(plan, base, folder, {});
  const manifest = grownManifest(base.manifest, plan, tensors, null);
  return {
    id: "ckpt_grown",
    manifest,
    blobs: { ...base.blobs, ...Object.fromEntries(blobs.map((blob) => [blob.digest, blobLocation(folder, blob)])) },
  };
}

function workOn(checkpoint: ResolvedCheckpoint, steps: number): TrainWork {
  const work = tinyWork(checkpoint, tinyDataset(folder, { train: 4000 }), folder);
  return {
    ...work,
    tokens: steps * work.batchTokens,
    schedule: { ...work.schedule, type: "constant", warmupSteps: 0 },
  };
}

async function trained(work: TrainWork): Promise<TrainingState> {
  return resultOf(await collect(train(work, kernels, never, { memoryBytes: null }))).state;
}

function asCheckpoint(grown: ResolvedCheckpoint, state: TrainingState): ResolvedCheckpoint {
  const blobs = state.weights.map(
    ({ blob, offset, sizeBytes }) =>
      [blob, blobLocation(folder, { digest: blob, sizeBytes: offset + sizeBytes })] as const,
  );
  const sizes = new Map<string, ReturnType<typeof blobLocation>>();
  for (const [digest, location] of blobs)
    if ((sizes.get(digest)?.sizeBytes ?? 0) < location.sizeBytes) sizes.set(digest, location);
  const growthMask = maskAfter(grown.manifest.config, grown.manifest.growthMask, state.step);
  return {
    id: "ckpt_trained",
    manifest: { ...grown.manifest, tensors: state.weights, growthMask },
    blobs: Object.fromEntries(sizes),
  };
}

/** Each gate row as its neuron sees the source's dimensions: columns that were copies added up. */
async function neurons(checkpoint: ResolvedCheckpoint): Promise<Float64Array[]> {
  const gate = await readTensor(checkpoint, "model.layers.0.mlp.gate_proj.weight");
  const width = checkpoint.manifest.config.hiddenSize;
  return Array.from({ length: gate.length / width }, (_, row) => {
    const sums = new Float64Array(tinyConfig.hiddenSize);
    for (let column = 0; column < width; column += 1) sums[column % sums.length]! += gate[row * width + column]!;
    return sums;
  });
}

/** Largest relative distance between a neuron and its copy. */
function apart(rows: readonly Float64Array[]): number {
  const norm = (row: Float64Array): number => Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
  return Math.max(
    ...rows.slice(0, tinyConfig.intermediateSize).map((row, index) => {
      const copy = rows[index + tinyConfig.intermediateSize]!;
      return norm(row.map((value, i) => value - copy[i]!)) / norm(row);
    }),
  );
}

test("invariant 15: after 60 AdamW steps copies of an even split are equal to the bit, elementwise ones have parted by more than 10 %", async () => {
  const after: Record<string, number> = {};
  for (const split of ["even", "elementwise"]) {
    const grown = await grow({ operator: "direct", axis: "width", factor: 2, params: { split } });
    assert.ok(apart(await neurons(grown)) < 1e-6, "copies start as the same neuron");
    after[split] = apart(await neurons(asCheckpoint(grown, await trained(workOn(grown, 60)))));
  }
  assert.equal(after["even"], 0);
  assert.ok(after["elementwise"]! > 0.1, String(after["elementwise"]));
});

for (const request of [
  { operator: "random", axis: "depth", factor: 2, params: { ramp_steps: 4 } },
  { operator: "random", axis: "width", factor: 2, params: { ramp_steps: 2, stages: 3 } },
] as const) {
  test(`invariant 5: ${request.axis}: trained in two parts, or stopped and resumed, a fading model ends with the same bytes`, async () => {
    const grown = await grow(request as GrowthPlanRequest);
    const change = await compareLogits(
      { source: base, target: grown, seed: 1, sequences: 2, positions: 8 },
      kernels,
      never,
    );
    assert.ok(
      change && change.maxAbsLogitChange < (request.axis === "depth" ? 1e-30 : 1e-5),
      `${change?.maxAbsLogitChange}`,
    );
    const whole = await trained(workOn(grown, 7));
    const stop = new AbortController();
    const events = await collect(train(workOn(grown, 7), kernels, stop.signal, { memoryBytes: null }), (event) => {
      if (event.type === "metrics" && event.point.step === 3) stop.abort();
    });
    const saved = events.findLast((event) => event.type === "saved");
    assert.ok(saved?.type === "saved" && saved.state.step === 3);
    const resumed = await trained({
      ...workOn(grown, 7),
      resume: JSON.parse(JSON.stringify(saved.state)) as TrainingState,
    });
    assert.deepEqual(digestsOf(resumed), digestsOf(whole));
    const part = asCheckpoint(grown, saved.state);
    assert.equal(part.manifest.growthMask?.step, 3);
    const optimizer = saved.state.optimizer;
    const sizes = [...optimizer.firstMoments, ...optimizer.secondMoments].map(
      ({ blob, offset, sizeBytes }) => [blob, offset + sizeBytes] as const,
    );
    const moments = Object.fromEntries(
      sizes.map(([digest, sizeBytes]) => [digest, blobLocation(folder, { digest, sizeBytes })]),
    );
    const second = { ...part, manifest: { ...part.manifest, optimizer }, blobs: { ...part.blobs, ...moments } };
    const rest = await trained({ ...workOn(second, 4), skipTokens: saved.state.position });
    assert.deepEqual(
      rest.weights.map(({ sha256 }) => sha256),
      whole.weights.map(({ sha256 }) => sha256),
    );
    assert.equal(asCheckpoint(grown, whole).manifest.growthMask, null);
  });
}

test("kept tensors get no gradient and no moments, keep their references, and a resumed run ends with the same bytes", async () => {
  const grown = await grow({ operator: "zero", axis: "depth", factor: 2 });
  const trainable = grown.manifest.tensors.map(({ name }) => name).filter((name) => name.startsWith("model.layers.1."));
  const work = { ...workOn(grown, 5), trainable };
  const whole = await trained(work);
  whole.weights.forEach((tensor, index) => {
    if (!trainable.includes(tensor.name)) assert.deepEqual(tensor, grown.manifest.tensors[index]);
  });
  assert.deepEqual(
    whole.optimizer.firstMoments.map(({ name }) => name),
    trainable,
  );
  assert.ok(whole.weights.filter(({ sha256 }, index) => sha256 !== grown.manifest.tensors[index]!.sha256).length > 5);
  const stop = new AbortController();
  const events = await collect(train(work, kernels, stop.signal, { memoryBytes: null }), (event) => {
    if (event.type === "metrics" && event.point.step === 2) stop.abort();
  });
  const saved = events.findLast((event) => event.type === "saved");
  assert.ok(saved?.type === "saved");
  const resume = JSON.parse(JSON.stringify(saved.state)) as TrainingState;
  assert.deepEqual(digestsOf(await trained({ ...work, resume })), digestsOf(whole));
});
