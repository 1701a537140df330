/** Training with precision mixed_f16 on a GPU: the loss scale is part of the run's state, and what overflows is skipped. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import type { LossScaleState } from "../../../src/ops/manifest.ts";
import { missingGpu, missingHalf } from "../../helpers/gpu.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyDataset,
  tinyWork,
} from "./trainerFixture.ts";

const missing = await missingHalf();
const options = { skip: missing ?? false };
const never = new AbortController().signal;
const folder = temporaryFolder();
const steps = 12;

async function workOf(change: Partial<TrainWork> = {}): Promise<TrainWork> {
  const work = tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder);
  return { ...work, tokens: steps * 32, precision: "mixed_f16", ...change };
}

/** Where a run stands after its first update, with another loss scale than it has. */
async function resumeWith(lossScale: LossScaleState): Promise<TrainingState> {
  const work = await workOf({ saveEveryTokens: 32 });
  const events = await collect(getBackend("webgpu").train(work, never));
  const saved = events.find((event) => event.type === "saved");
  assert.ok(saved?.type === "saved" && saved.state.step === 1);
  return { ...saved.state, optimizer: { ...saved.state.optimizer, lossScale } };
}

function lossesOf(events: readonly WorkEvent[]): number[] {
  return events.flatMap((event) => (event.type === "metrics" ? [event.point.loss!] : []));
}

/** Steps whose update was skipped, and the scale that it overflowed at. */
function skipsOf(events: readonly WorkEvent[]): [step: number, scale: number][] {
  return events.flatMap((event) => {
    const told =
      event.type === "log" && /^step (\d+): the gradient overflowed at loss scale (\d+);/.exec(event.message);
    return told ? [[Number(told[1]), Number(told[2])]] : [];
  });
}

test(
  "mixed_f16: it learns, with weights and moments in float32, and keeps its loss scale with the moments",
  options,
  async () => {
    const events = await collect(getBackend("webgpu").train(await workOf(), never));
    const { state } = resultOf(events);
    const losses = lossesOf(events);
    assert.equal(losses.length, steps);
    assert.match(state.numerics!.kernels, /^webgpu-(lanes|tiles)-f16$/);
    const { firstMoments, secondMoments, lossScale } = state.optimizer;
    const tensors = [...state.weights, ...firstMoments, ...secondMoments];
    assert.ok(tensors.every(({ dtype }) => dtype === "F32"));
    assert.ok(Math.log2(lossScale!.scale) % 1 === 0 && lossScale!.scale >= 1);
    assert.equal(lossScale!.goodUpdates, state.optimizer.step);
    const plain = resultOf(await collect(getBackend("webgpu").train(await workOf({ precision: "f32" }), never)));
    assert.equal(plain.state.optimizer.lossScale, undefined, "a training in f32 has none");
  },
);

test(
  "mixed_f16: updates that overflow are skipped, the scale halves each time, and a resumed run has the bytes of a whole one",
  options,
  async () => {
    const resume = await resumeWith({ scale: 2 ** 22, goodUpdates: 7 });
    const work = await workOf({ resume });
    const events = await collect(getBackend("webgpu").train(work, never));
    const whole = resultOf(events).state;
    const skips = skipsOf(events);
    assert.ok(skips.length >= 2 && skips.length < steps - 2, `${skips.length} of ${steps - 1} updates were skipped`);
    assert.deepEqual(
      skips.map(([, scale]) => scale),
      skips.map((_, i) => 2 ** (22 - i)),
    );
    const points = events.flatMap((event) => (event.type === "metrics" ? [event.point] : []));
    assert.deepEqual(
      points.flatMap(({ step, gradNorm }) => (gradNorm === null ? [step] : [])),
      skips.map(([step]) => step),
    );
    assert.ok(points.every(({ loss }) => Number.isFinite(loss)));
    assert.equal(whole.step, steps);
    assert.equal(whole.optimizer.step, steps - skips.length, "skipped updates are none of AdamW's");
    const goodUpdates = steps - skips.at(-1)![0];
    assert.deepEqual(whole.optimizer.lossScale, { scale: 2 ** (22 - skips.length), goodUpdates });

    // Stopped in the middle of the skips, and once more after them.
    let state: TrainingState = resume;
    for (const tokens of [3 * 32, 9 * 32, steps * 32]) {
      const part = await collect(getBackend("webgpu").train(await workOf({ resume: state, tokens }), never));
      state = JSON.parse(JSON.stringify(resultOf(part).state)) as TrainingState;
    }
    assert.deepEqual(digestsOf(state), digestsOf(whole));
    assert.deepEqual(state.optimizer, whole.optimizer);
  },
);

test("mixed_f16: a training from a checkpoint with optimizer state goes on with its loss scale", options, async () => {
  const first = resultOf(await collect(getBackend("webgpu").train(await workOf({ tokens: 64 }), never))).state;
  const optimizer = { ...first.optimizer, lossScale: { scale: 32, goodUpdates: 1998 } };
  const checkpoint = await tinyCheckpoint(folder, { tensors: first.weights, optimizer });
  const { state } = resultOf(
    await collect(getBackend("webgpu").train(await workOf({ checkpoint, tokens: 64 }), never)),
  );
  assert.deepEqual(state.optimizer.lossScale, { scale: 64, goodUpdates: 0 });
});

test("mixed_f16: a gradient that is not finite at scale 1, or a loss that is not, has diverged", options, async () => {
  const { optimizer } = await workOf();
  const work = await workOf({ optimizer: { ...optimizer, learningRate: 1e30 }, validateEveryTokens: null });
  await assert.rejects(collect(getBackend("webgpu").train(work, never)), {
    code: "diverged",
    message: /diverged at step \d+: the (loss is|gradient's norm is)/,
  });
});

test("the probe of webgpu tells whether it trains with mixed_f16, or why not", async (t) => {
  const gpu = await missingGpu();
  if (gpu !== null) return t.skip(gpu);
  const { features, precisions } = await getBackend("webgpu").probe({ measure: true });
  assert.equal(features["mixed_f16"], String(features["features"]).includes("shader-f16"));
  assert.equal(precisions!["mixed_f16"] ?? null, missing);
  if (missing !== null) return;
  assert.match(String(features["mixed_f16_products"]), /^(plain|matrices of subgroups)$/);
  const offered = String(features["features"]).includes("subgroup-matrix");
  const why = offered ? /software adapter|matrices of subgroups/ : /^the device has no chromium-experimental-subgroup-/;
  assert.match(String(features["mixed_f16_products_reason"]), why);
});
