/** The trainer: what it counts, when it validates and saves, what it refuses, and that it learns. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { train } from "../../../src/engine/train/trainer.ts";
import type { TrainOptions } from "../../../src/engine/train/trainer.ts";
import { countParameters } from "../../../src/ops/architectures/llama.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import type { MetricPoint, WorkEvent } from "../../../src/ops/events.ts";
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

const never = new AbortController().signal;
const folder = temporaryFolder();

async function setUp(change: Partial<TrainWork> = {}): Promise<{ kernels: Kernels; work: TrainWork }> {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm");
  return { kernels, work: { ...tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder), ...change } };
}

async function run(change: Partial<TrainWork> = {}, options: Partial<TrainOptions> = {}): Promise<WorkEvent[]> {
  const { kernels, work } = await setUp(change);
  return collect(train(work, kernels, never, { memoryBytes: null, ...options }));
}

function pointsOf(events: readonly WorkEvent[]): MetricPoint[] {
  return events.flatMap((event) => (event.type === "metrics" ? [event.point] : []));
}

async function failure(work: Promise<unknown>): Promise<CodedError> {
  return work.then(
    () => assert.fail("it should have failed"),
    (error: unknown) => error as CodedError,
  );
}

test("every update has one metric with exact tokens, FLOPs and learning rate", async () => {
  const points = pointsOf(await run());
  assert.deepEqual(
    points.map(({ step }) => step),
    [1, 2, 3, 4, 5, 6],
  );
  assert.deepEqual(
    points.map(({ tokens }) => tokens),
    [32, 64, 96, 128, 160, 192],
  );
  assert.deepEqual(
    points.map(({ flops }) => flops),
    points.map(({ tokens }) => 6 * countParameters(tinyConfig).total * tokens),
  );
  assert.equal(points[0]!.learningRate, 0);
  assert.ok(Math.abs(points[2]!.learningRate! - 1e-2) < 1e-15);
  assert.ok(points.every(({ loss, gradNorm, tokensPerSecond }) => loss! > 0 && gradNorm! > 0 && tokensPerSecond! > 0));
});

test("validation falls due by tokens, and after the last update", async () => {
  const points = pointsOf(await run({ validateEveryTokens: 96, tokens: 5 * 32 }));
  assert.deepEqual(
    points.map(({ validationLoss }) => validationLoss !== null),
    [false, false, true, false, true],
  );
  const silent = resultOf(await run({ validateEveryTokens: null, dataset: tinyDataset(folder, { validation: 0 }) }));
  assert.equal(silent.validationLoss, null);
});

test("the run has ceil(tokens / batch tokens) updates, and its result says what was trained on", async () => {
  const { state, trainLoss, validationLoss } = resultOf(await run({ tokens: 3 * 32 - 31 }));
  assert.equal(state.step, 3);
  assert.equal(state.tokens, 96);
  assert.equal(state.position, 3 + 96);
  assert.equal(state.optimizer.step, 3);
  assert.ok(trainLoss! > 0 && validationLoss! > 0);
});

test("the loss falls on text with a pattern", async () => {
  const points = pointsOf(
    await run({
      tokens: 60 * 32,
      schedule: { type: "constant", warmupSteps: 2, totalSteps: 60, minLearningRate: 0, decaySteps: 0 },
    }),
  );
  assert.ok(points.at(-1)!.loss! < 0.5 * points[0]!.loss!, `${points[0]!.loss} to ${points.at(-1)!.loss}`);
  assert.ok(points.at(-1)!.validationLoss! < 0.6 * points[0]!.loss!);
});

test("checkpoints are published by tokens, but not twice at the end", async () => {
  const events = await run({ saveEveryTokens: 64 });
  const saved = events.flatMap((event) => (event.type === "saved" ? [event] : []));
  assert.deepEqual(
    saved.map(({ state, publish }) => [state.step, publish === state.weights]),
    [
      [2, true],
      [4, true],
    ],
  );
  assert.ok(saved.every(({ blobs }) => blobs.length === 3));
  assert.equal(events.at(-1)!.type, "result");
});

test("resume points are saved by the clock, and not published", async () => {
  let clock = 0;
  const events = await run({ saveEveryMs: 1000 }, { now: () => (clock += 100) });
  const saved = events.flatMap((event) => (event.type === "saved" ? [event] : []));
  assert.ok(saved.length >= 1 && saved.length < 6, `${saved.length} saves`);
  assert.ok(saved.every(({ publish }) => publish === null));
});

test("progress ends at 1 and tells the time left", async () => {
  const told = (await run()).flatMap((event) => (event.type === "progress" ? [event] : []));
  assert.equal(told.at(-1)!.fraction, 1);
  assert.equal(told.at(-1)!.etaSeconds, 0);
  assert.equal(told.at(-1)!.totalSteps, 6);
});

test("a run whose optimizer state is not kept ends without moments, with the same weights", async () => {
  const without = resultOf(await run({ keepOptimizerState: false })).state;
  assert.deepEqual(without.optimizer.firstMoments, []);
  const withThem = resultOf(await run()).state;
  assert.deepEqual(without.weights, withThem.weights);
});

test("how a batch is cut into micro-batches changes the loss by rounding only", async () => {
  const [whole, ...others] = await Promise.all([4, 2, 1].map((micro) => run({ microBatchSequences: micro })));
  for (const other of others) {
    pointsOf(other).forEach(({ loss }, i) => {
      const wanted = pointsOf(whole!)[i]!.loss!;
      assert.ok(Math.abs(loss! - wanted) < 1e-4, `${loss}, wanted ${wanted}`);
    });
  }
});

test("two runs of the same work end with the same bytes", async () => {
  const [a, b] = [resultOf(await run()), resultOf(await run())];
  assert.deepEqual(digestsOf(a.state), digestsOf(b.state));
});

test("moments kept with a checkpoint are gone on from: 3 + 3 updates are 6", async () => {
  const schedule = { type: "constant", warmupSteps: 0, totalSteps: 6, minLearningRate: 0, decaySteps: 0 } as const;
  const whole = resultOf(await run({ schedule })).state;
  const half = resultOf(await run({ schedule, tokens: 3 * 32 })).state;
  const { work, kernels } = await setUp({ schedule, tokens: 3 * 32, skipTokens: half.position });
  const checkpoint = await tinyCheckpoint(folder, { tensors: half.weights, optimizer: half.optimizer });
  const second = resultOf(await collect(train({ ...work, checkpoint }, kernels, never, { memoryBytes: null }))).state;
  assert.deepEqual(digestsOf(second), digestsOf(whole));
  assert.equal(second.optimizer.step, 6);
  assert.equal(second.step, 3);
});

test("a run that diverges says at which step, and saves nothing after it", async () => {
  const { kernels, work } = await setUp({
    saveEveryTokens: 32,
    optimizer: { ...tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder).optimizer, learningRate: 1e30 },
  });
  const before = tf.memory().numTensors;
  const seen: WorkEvent[] = [];
  const error = await failure(collect(train(work, kernels, never, { memoryBytes: null }), (event) => seen.push(event)));
  assert.equal(error.code, "diverged");
  const last = pointsOf(seen).at(-1)!.step;
  assert.ok(Number(error.details["step"]) >= last, error.message);
  assert.match(error.message, /step \d/);
  const saved = seen.flatMap((event) => (event.type === "saved" ? [event.state.step] : []));
  assert.ok(
    saved.every((step) => step < Number(error.details["step"])),
    `${saved} before ${error.message}`,
  );
  assert.equal(tf.memory().numTensors, before, "no tensor is left over");
});

test("no tensor is left over, and the number in use is the same after every update", async () => {
  const { kernels, work } = await setUp({ tokens: 12 * 32, saveEveryTokens: 64 });
  const before = tf.memory().numTensors;
  const counts = new Set<number>();
  await collect(train(work, kernels, never, { memoryBytes: null }), (event) => {
    if (event.type === "metrics") counts.add(tf.memory().numTensors);
  });
  assert.equal(counts.size, 1, `${[...counts]}`);
  assert.equal(tf.memory().numTensors, before);
});

test("numbers that do not fit each other, the model or the data are refused before anything runs", async () => {
  const refused: [Partial<TrainWork>, RegExp][] = [
    [{ batchTokens: 33 }, /batch_tokens is 33, a multiple of sequence_length 8/],
    [{ microBatchSequences: 3 }, /micro_batch_sequences is 3, a divisor of the 4/],
    [{ sequenceLength: 64, batchTokens: 64, microBatchSequences: null }, /max_position_embeddings 32/],
    [{ dataset: tinyDataset(folder, { vocab: 31 }) }, /holds token id (29|30) .* vocab_size is 29/],
  ];
  for (const [change, message] of refused) {
    const error = await failure(run(change));
    assert.equal(error.code, "unprocessable");
    assert.match(error.message, message);
  }
});

test("a model that does not fit the backend is refused with the bytes it needs", async () => {
  const error = await failure(run({}, { memoryBytes: 1000 }));
  assert.equal(error.code, "model_too_large");
  assert.match(error.message, /needs about \d+ bytes, the backend has 1000/);
});
