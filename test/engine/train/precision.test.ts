/** Training with precision bf16: as good as float32 in the end, exactly resumable, and refused where it is not to be had. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import { missingBf16, missingBlas } from "../../helpers/blas.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyDataset,
  tinyWork,
} from "./trainerFixture.ts";

const missing = await missingBf16();
const options = { skip: missing ?? false };
const never = new AbortController().signal;
const folder = temporaryFolder();

async function workOf(change: Partial<TrainWork>, data = tinyDataset(folder)): Promise<TrainWork> {
  return { ...tinyWork(await tinyCheckpoint(folder), data, folder), ...change };
}

function lossesOf(events: readonly WorkEvent[]): number[] {
  return events.flatMap((event) => (event.type === "metrics" ? [event.point.loss as number] : []));
}

test(
  "bf16: after 2,000 steps the loss is within 1 % of float32's, on what was seen and on what was not",
  options,
  async () => {
    const steps = 2000;
    const noisy = tinyDataset(folder, { train: steps * 32 + 100, validation: 4100, noise: 0.25 });
    const change = {
      ...{ tokens: steps * 32, validateEveryTokens: null, validationTokens: 4096, microBatchSequences: null },
      schedule: { type: "cosine", warmupSteps: 50, totalSteps: steps, minLearningRate: 1e-4, decaySteps: 0 } as const,
    };
    const ends = [];
    for (const precision of ["f32", "bf16"] as const) {
      const events = await collect(getBackend("native").train(await workOf({ ...change, precision }, noisy), never));
      const losses = lossesOf(events);
      assert.equal(losses.length, steps);
      const last = losses.slice(-200).reduce((sum, loss) => sum + loss / 200, 0);
      assert.ok(last < losses[0]! - 1, `it has learned: ${losses[0]} became ${last}`);
      assert.ok(last > 0.5, "and not everything can be learned");
      ends.push({ last, held: resultOf(events).validationLoss!, state: resultOf(events).state });
    }
    const [f32, bf16] = ends as [(typeof ends)[0], (typeof ends)[0]];
    assert.ok(Math.abs(bf16.last / f32.last - 1) < 0.01, `${bf16.last} and ${f32.last}`);
    assert.ok(Math.abs(bf16.held / f32.held - 1) < 0.01, `${bf16.held} and ${f32.held}`);
    assert.notDeepEqual(digestsOf(bf16.state), digestsOf(f32.state), "they were not the same arithmetic");
    assert.ok(
      bf16.state.weights.every(({ dtype }) => dtype === "F32"),
      "master weights are float32",
    );
  },
);

test("bf16: a run that was stopped ends with the bytes of one that was not", options, async () => {
  const work = await workOf({ precision: "bf16" });
  const backend = getBackend("native", { threads: 2 });
  const whole = resultOf(await collect(backend.train(work, never)));
  assert.match(whole.state.numerics!.kernels, /^native-bf16/);
  const controller = new AbortController();
  const events = await collect(backend.train(work, controller.signal), (event) => {
    if (event.type === "metrics" && event.point.step === 3) controller.abort();
  });
  const saved = events.findLast((event) => event.type === "saved");
  assert.ok(saved?.type === "saved");
  const resume = JSON.parse(JSON.stringify(saved.state)) as TrainingState;
  const rest = resultOf(await collect(getBackend("native").train({ ...work, resume }, never)));
  assert.deepEqual(digestsOf(rest.state), digestsOf(whole.state));
});

for (const [precision, names] of [
  ["bf16", ["wasm", "cpu"]],
  ["mixed_f16", ["wasm", "cpu", "native"]],
] as const) {
  test(`a backend without ${precision} fails such a training by name instead of computing otherwise`, async () => {
    for (const name of names) {
      await assert.rejects(collect(getBackend(name).train(await workOf({ precision }), never)), {
        code: "backend_unavailable",
        message: new RegExp(`kernels .* do not train with precision ${precision}`),
      });
    }
  });
}

test("the probe of native tells what bf16 is computed with, or what is missing", async (t) => {
  if ((await missingBlas()) !== null) return t.skip("native is not available here");
  const { features, precisions } = await getBackend("native").probe();
  if (missing === null) {
    assert.match(String(features["bf16"]), /^oneDNN \d/);
    assert.deepEqual(precisions, { bf16: null });
  } else {
    assert.equal(features["bf16"], false);
    assert.match(String(features["bf16_reason"]), /oneDNN|bfloat16|koffi/);
  }
});
