/** Updates on a device that computes ahead: what is told of them, when, and what a run that goes wrong leaves behind. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { getBackend } from "../../../src/engine/backends/index.ts";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { createBatchLoader } from "../../../src/engine/data/loader.ts";
import { createWebgpuKernels } from "../../../src/engine/kernels/webgpu/createWebgpuKernels.ts";
import { deferredUpdates, mostUnread } from "../../../src/engine/train/deferredUpdates.ts";
import type { MicroBatch } from "../../../src/engine/train/loss.ts";
import { toMicroBatch } from "../../../src/engine/train/loss.ts";
import { startRun } from "../../../src/engine/train/resume.ts";
import { disposeRun } from "../../../src/engine/train/run.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import type { WorkEvent } from "../../../src/ops/events.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { collect, temporaryFolder, tinyCheckpoint, tinyConfig, tinyDataset, tinyWork } from "./trainerFixture.ts";

const options = { skip: (await missingGpu()) ?? false };
const never = new AbortController().signal;
const folder = temporaryFolder();

async function workOf(change: Partial<TrainWork> = {}): Promise<TrainWork> {
  return { ...tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder), ...change };
}

test("every update is told of once, in order, with the tokens up to it, and with its validation", options, async () => {
  const events = await collect(getBackend("webgpu").train(await workOf({ tokens: 21 * 32 }), never));
  const points = events.flatMap((event) => (event.type === "metrics" ? [event.point] : []));
  const steps = Array.from({ length: 21 }, (_, i) => i + 1);
  assert.deepEqual(
    points.map(({ step, tokens }) => [step, tokens]),
    steps.map((step) => [step, step * 32]),
  );
  for (const { step, loss, gradNorm, tokensPerSecond, validationLoss } of points) {
    assert.ok(loss! > 0 && gradNorm! > 0 && tokensPerSecond! > 0);
    assert.equal(validationLoss !== null, step % 2 === 0 || step === 21, `step ${step}`);
  }
});

test(
  `an outcome is known at most ${mostUnread} updates later, though nobody waits for it, and all are on request`,
  options,
  async () => {
    await activateTfjs("webgpu");
    const kernels = await createWebgpuKernels();
    const work = await workOf();
    const run = await startRun(work, kernels, 2);
    const before = tf.memory().numTensors;
    const loader = createBatchLoader(work.dataset, { sequenceLength: 8, position: 0 });
    async function* batches(): AsyncGenerator<MicroBatch> {
      await Promise.resolve();
      for (let i = 0; i < 2; i++) yield toMicroBatch(loader.next(1), tinyConfig);
    }
    // A clock that stands still: only the number of updates counts.
    const updates = deferredUpdates(run, kernels.deferred!, () => 0);
    const taken: number[] = [];
    const count = 3 * mostUnread + 3;
    for (let step = 1; step <= count; step++) {
      assert.equal(await updates.make(batches(), { learningRate: 1e-3, clip: 1, step }, never), true);
      taken.push(...(await updates.take(false)).map((outcome) => outcome.step));
      assert.ok(step - taken.length <= mostUnread, `${taken.length} of ${step} are known`);
    }
    assert.ok(taken.length < count, "some are still under way");
    taken.push(...(await updates.take(true)).map((outcome) => outcome.step));
    assert.deepEqual(
      taken,
      Array.from({ length: count }, (_, i) => i + 1),
    );
    assert.equal(
      await updates.make(batches(), { learningRate: 1e-3, clip: 1, step: count + 1 }, AbortSignal.abort()),
      false,
    );
    assert.equal(run.optimizer.step, count);
    await updates.close();
    loader.close();
    assert.equal(tf.memory().numTensors, before, "no tensor is left over");
    disposeRun(run);
  },
);

test(
  "a run that diverges tells the updates before, says at which step, and saves nothing after it",
  options,
  async () => {
    const { optimizer } = await workOf();
    const base = await workOf({ tokens: 40 * 32, saveEveryMs: 5, validateEveryTokens: null });
    const before = tf.memory().numTensors;
    const seen: WorkEvent[] = [];
    const work = { ...base, optimizer: { ...optimizer, learningRate: 1e30 } };
    const failing = collect(getBackend("webgpu").train(work, never), (event) => seen.push(event));
    const error = await failing.then(
      () => assert.fail("it should have failed"),
      (thrown: unknown) => thrown as CodedError,
    );
    assert.equal(error.code, "diverged");
    const step = Number(error.details["step"]);
    assert.match(error.message, new RegExp(`diverged at step ${step}: `));
    const told = seen.flatMap((event) => (event.type === "metrics" ? [event.point.step] : []));
    assert.deepEqual(
      told,
      Array.from({ length: step - 1 }, (_, i) => i + 1),
    );
    assert.ok(seen.every((event) => event.type !== "saved" || event.state.step < step));
    assert.ok(seen.every((event) => event.type !== "result"));
    assert.equal(tf.memory().numTensors, before, "no tensor is left over");
  },
);
