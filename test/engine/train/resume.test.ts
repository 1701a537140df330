/** A training stopped anywhere and resumed ends with the bytes of one that was never stopped. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TfjsBackendName } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { KernelChoice } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { train } from "../../../src/engine/train/trainer.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyDataset,
  tinyWork,
} from "./trainerFixture.ts";

const never = new AbortController().signal;
const folder = temporaryFolder();

async function setUp(backend: TfjsBackendName, choice: KernelChoice): Promise<{ kernels: Kernels; work: TrainWork }> {
  await activateTfjs(backend);
  const { kernels } = await kernelsFor(backend, choice);
  return { kernels, work: tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder) };
}

function run(work: TrainWork, kernels: Kernels): Promise<WorkEvent[]> {
  return collect(train(work, kernels, never, { memoryBytes: null }));
}

/** Aborts `turns` turns of the event loop after the metric of `step` (0: at the start); gives what was seen. */
async function stopped(work: TrainWork, kernels: Kernels, step: number, turns: number): Promise<WorkEvent[]> {
  const controller = new AbortController();
  const later = (left: number): void => {
    if (left === 0) controller.abort();
    else setImmediate(() => later(left - 1));
  };
  return collect(train(work, kernels, controller.signal, { memoryBytes: null }), (event) => {
    const here = event.type === "metrics" ? event.point.step === step : step === 0 && event.type === "log";
    if (here) later(turns);
  });
}

/** The last state that was saved, as it comes back from a database. */
function savedState(events: readonly WorkEvent[]): TrainingState | null {
  const saved = events.findLast((event) => event.type === "saved");
  return saved?.type === "saved" ? (JSON.parse(JSON.stringify(saved.state)) as TrainingState) : null;
}

function curve(events: readonly WorkEvent[]): Map<number, [number | null, number | null, number | null]> {
  return new Map(
    events.flatMap((event) =>
      event.type === "metrics"
        ? [[event.point.step, [event.point.loss, event.point.learningRate, event.point.validationLoss]]]
        : [],
    ),
  );
}

for (const [backend, choice] of [
  ["cpu", "reference"],
  ["wasm", "reference"],
  ["wasm", "auto"],
] as const) {
  // turns 0: between updates; more: in the middle of a micro-batch or of a validation
  const stops =
    backend === "cpu"
      ? [
          [2, 0],
          [3, 1],
        ]
      : [0, 1, 2, 3, 4, 5].flatMap((step) => [0, 1, 2, 3, 4].map((turns) => [step, turns]));
  test(`${backend}/${choice}: stopped at any of ${stops.length} moments and resumed, a run ends with the same bytes and curve`, async () => {
    const { kernels, work } = await setUp(backend, choice);
    const whole = await run(work, kernels);
    const wanted = digestsOf(resultOf(whole).state);
    assert.ok(Object.keys(wanted).length > 60);
    for (const [step, turns] of stops as [number, number][]) {
      const first = await stopped(work, kernels, step, turns);
      if (first.at(-1)!.type === "result") continue; // the abort came after the last update
      assert.equal(first.at(-1)!.type, "stopped");
      const state = savedState(first);
      const done = Math.max(0, ...curve(first).keys());
      assert.equal(state?.step ?? 0, done, "the state is that of the last update told");
      const second = await run({ ...work, resume: state }, kernels);
      assert.deepEqual(digestsOf(resultOf(second).state), wanted, `stopped after step ${step}, turn ${turns}`);
      assert.deepEqual({ ...resultOf(second), state: null }, { ...resultOf(whole), state: null });
      assert.deepEqual(new Map([...curve(first), ...curve(second)]), curve(whole));
    }
  });
}

test("a run resumed again and again, after every update, ends with the same bytes", async () => {
  const { kernels, work } = await setUp("wasm", "auto");
  const wanted = digestsOf(resultOf(await run(work, kernels)).state);
  let state: TrainingState | null = null;
  for (let step = 1; step < 6; step++) state = savedState(await stopped({ ...work, resume: state }, kernels, step, 0));
  assert.equal(state!.step, 5);
  assert.deepEqual(digestsOf(resultOf(await run({ ...work, resume: state }, kernels)).state), wanted);
});

test("a run killed between saves is taken up at the last one, and ends with the same bytes", async () => {
  const { kernels, work } = await setUp("wasm", "auto");
  const wanted = digestsOf(resultOf(await run(work, kernels)).state);
  for (const saveEveryTokens of [32, 96]) {
    const events: WorkEvent[] = [];
    for await (const event of train({ ...work, saveEveryTokens }, kernels, never, { memoryBytes: null })) {
      events.push(event);
      if (event.type === "metrics" && event.point.step === 5) break;
    }
    const state = savedState(events);
    assert.equal(state!.step, saveEveryTokens === 32 ? 4 : 3);
    assert.deepEqual(digestsOf(resultOf(await run({ ...work, resume: state }, kernels)).state), wanted);
  }
});

test("a run aborted before it did anything saves nothing", async () => {
  const { kernels, work } = await setUp("wasm", "auto");
  const events = await collect(train(work, kernels, AbortSignal.abort(), { memoryBytes: null }));
  assert.deepEqual(
    events.map(({ type }) => type),
    ["log", "stopped"],
  );
});

test("a resume point whose blob is gone is refused by name", async () => {
  const { kernels, work } = await setUp("wasm", "auto");
  const other = temporaryFolder();
  const state = savedState(await stopped({ ...work, blobDir: other }, kernels, 2, 0)) as TrainingState;
  const digest = state.weights[0]!.blob;
  rmSync(blobPath(other, digest));
  const error = await run({ ...work, blobDir: other, resume: state }, kernels).then(
    () => assert.fail("it should have failed"),
    (thrown: unknown) => thrown as CodedError,
  );
  assert.equal(error.code, "checkpoint_corrupt");
  assert.ok(error.message.includes(digest));
});
