/** What growth asks of a backend beyond plain training, on webgpu: learned expansions, and masks that fade in. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import type { FitWork, TrainWork } from "../../../src/engine/backends/work.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { buildTensors } from "../../../src/engine/growth/growTensors.ts";
import { grownManifest } from "../../../src/engine/jobs/growthPlan.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import { planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyDataset,
  tinyWork,
} from "../train/trainerFixture.ts";

const options = { skip: (await missingGpu()) ?? false };
const folder = temporaryFolder();
const gpu = getBackend("webgpu");
const reference = getBackend("wasm");
const never = new AbortController().signal;

type Run = (backend: typeof gpu, signal: AbortSignal, resume: TrainingState | null) => AsyncIterable<WorkEvent>;

async function losses(run: Run, backend: typeof gpu): Promise<number[]> {
  const events = await collect(run(backend, never, null));
  return events.flatMap((event) => (event.type === "metrics" ? [event.point.loss!] : []));
}

/** Updates of a run: outcomes are read up to 16 updates late, and a stop must come before the end. */
const steps = 40;
/** Updates whose losses are compared; float32's rounding grows from one to the next. */
const compared = 8;

/** The losses of wasm, within what float32 sums in another order; and the same bytes when stopped and resumed. */
async function holds(run: Run): Promise<void> {
  const [wanted, got] = [await losses(run, reference), await losses(run, gpu)];
  assert.equal(wanted.length, steps);
  assert.equal(got.length, steps);
  wanted.slice(0, compared).forEach((loss, at) => {
    assert.ok(Math.abs(got[at]! - loss) <= 1e-3 * loss, `update ${at + 1}: ${got[at]} on webgpu, ${loss} on wasm`);
  });
  assert.ok(new Set(wanted).size > 1, "the loss moves");
  const whole = resultOf(await collect(run(gpu, never, null))).state;
  const controller = new AbortController();
  const first = await collect(run(gpu, controller.signal, null), (event) => {
    if (event.type === "metrics" && event.point.step === 2) controller.abort();
  });
  assert.equal(first.at(-1)!.type, "stopped");
  const saved = first.findLast((event) => event.type === "saved")!;
  assert.ok(saved.state.step < whole.step, `stopped at ${saved.state.step}`);
  const resume = JSON.parse(JSON.stringify(saved.state)) as TrainingState;
  const resumed = resultOf(await collect(run(gpu, never, resume))).state;
  assert.deepEqual(digestsOf(resumed), digestsOf(whole));
}

for (const axis of ["depth", "width"] as const) {
  test(`a learned ${axis} expansion is fitted on webgpu as on wasm, and resumes to the byte`, options, async () => {
    const source = await tinyCheckpoint(folder);
    const fit = {
      fit_steps: steps,
      batch_tokens: 32,
      sequence_length: 8,
      micro_batch_sequences: 2,
      learning_rate: 0.02,
    };
    const request: GrowthPlanRequest = { operator: "learn", axis, factor: 2, seed: 4, params: fit };
    const dataset = tinyDataset(folder);
    const work: FitWork = { source, request, dataset, skipTokens: 3, saveEveryMs: 1e9, resume: null, blobDir: folder };
    await holds((backend, signal, resume) => backend.fit({ ...work, resume }, signal));
  });

  test(`a randomly grown ${axis} fades in on webgpu as on wasm, and resumes to the byte`, options, async () => {
    const base = await tinyCheckpoint(folder);
    const plan = planGrowth(base.manifest, { operator: "random", axis, factor: 2, params: { ramp_steps: 6 } });
    const { tensors, blobs } = await buildTensors(plan, base, folder, {});
    const grown = {
      id: "ckpt_grown",
      manifest: grownManifest(base.manifest, plan, tensors, null),
      blobs: { ...base.blobs, ...Object.fromEntries(blobs.map((blob) => [blob.digest, blobLocation(folder, blob)])) },
    };
    assert.ok(grown.manifest.growthMask);
    const plain = tinyWork(grown, tinyDataset(folder, { train: 4000 }), folder);
    const schedule = { ...plain.schedule, type: "constant", warmupSteps: 0 } as const;
    const work: TrainWork = { ...plain, tokens: steps * plain.batchTokens, schedule };
    await holds((backend, signal, resume) => backend.train({ ...work, resume }, signal));
  });
}
