/** A training on several threads: the bytes of one thread, stopped and resumed on any number; and who gets threads. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startGradientThreads } from "../../../src/engine/backends/gradientThreads.ts";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { KernelChoice } from "../../../src/engine/kernels/index.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import type { KernelVariant } from "../../../src/engine/kernels/wasm/variants.ts";
import { estimateTrainingMemory } from "../../../src/engine/train/memory.ts";
import type { BatchShape } from "../../../src/engine/train/threads.ts";
import { planThreads } from "../../../src/engine/train/threads.ts";
import { train } from "../../../src/engine/train/trainer.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import { missingBf16, missingBlas } from "../../helpers/blas.ts";
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

const large = 1e12;
const unlimited = { heapBytes: null, totalBytes: null };
const folder = temporaryFolder();

async function tinyThreadWork(): Promise<TrainWork> {
  return tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder);
}

/** @param stopAfter step after which the run is asked to stop; 0 for never */
async function run(
  work: TrainWork,
  choice: KernelChoice,
  threads: number,
  stopAfter = 0,
  variant: KernelVariant | null = null,
): Promise<WorkEvent[]> {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm", choice, variant);
  const controller = new AbortController();
  const events = train(work, kernels, controller.signal, {
    memoryBytes: null,
    threads: {
      most: threads,
      leastFlops: 0,
      ...unlimited,
      start: (model, count) => startGradientThreads(model, count, { tfjs: "wasm", kernels: choice, variant }),
    },
  });
  return collect(events, (event) => {
    if (event.type === "metrics" && event.point.step === stopAfter) controller.abort();
  });
}

function savedState(events: readonly WorkEvent[]): TrainingState {
  const saved = events.findLast((event) => event.type === "saved");
  assert.ok(saved?.type === "saved");
  return JSON.parse(JSON.stringify(saved.state)) as TrainingState;
}

const engines = [
  ...kernelVariants
    .filter(variantRuns)
    .map((variant) => ({ title: variant, choice: "wasm-simd", variant, skip: false }) as const),
  { title: "native", choice: "native", variant: null, skip: (await missingBlas()) ?? false } as const,
  { title: "native-bf16", choice: "native-bf16", variant: null, skip: (await missingBf16()) ?? false } as const,
];
for (const { title, choice, variant, skip } of engines) {
  test(
    `${title}: 1, 2 and 4 threads end with the same bytes, run through or stopped on one number and resumed on another`,
    { skip },
    async () => {
      const work = { ...(await tinyThreadWork()), microBatchSequences: 1 };
      const whole = await run(work, choice, 1, 0, variant);
      const wanted = digestsOf(resultOf(whole).state);
      for (const threads of [2, 4]) {
        const events = await run(work, choice, threads, 0, variant);
        assert.match(events[0]!.type === "log" ? events[0]!.message : "", new RegExp(`on each of ${threads} threads`));
        assert.deepEqual(digestsOf(resultOf(events).state), wanted, `${threads} threads`);
        assert.equal(resultOf(events).trainLoss, resultOf(whole).trainLoss);
      }
      const state = savedState(await run(work, choice, 2, 3, variant));
      assert.equal(state.step, 3);
      for (const threads of [1, 4]) {
        assert.deepEqual(
          digestsOf(resultOf(await run({ ...work, resume: state }, choice, threads, 0, variant)).state),
          wanted,
        );
      }
    },
  );
}

test("left to themselves, 1, 2 and 4 threads take other micro-batches, and losses differ by rounding only", async () => {
  const work = { ...(await tinyThreadWork()), microBatchSequences: null };
  const runs = await Promise.all([1, 2, 4].map((threads) => run(work, "auto", threads)));
  const states = runs.map((events) => resultOf(events).state);
  assert.deepEqual(
    states.map(({ numerics }) => numerics?.microBatchSequences),
    [4, 2, 1],
  );
  const losses = runs.map((events) => events.flatMap((event) => (event.type === "metrics" ? [event.point.loss!] : [])));
  for (const other of losses.slice(1)) {
    other.forEach((loss, i) =>
      assert.ok(Math.abs(loss - losses[0]![i]!) <= 1e-5, `step ${i + 1}: ${loss}, ${losses[0]![i]}`),
    );
  }
});

test("a resumed run keeps the micro-batch it began with on any number of threads, and so its bytes", async () => {
  const work = { ...(await tinyThreadWork()), microBatchSequences: null };
  const wanted = digestsOf(resultOf(await run(work, "auto", 2)).state);
  const state = savedState(await run(work, "auto", 2, 2));
  for (const threads of [1, 2, 3]) {
    assert.deepEqual(digestsOf(resultOf(await run({ ...work, resume: state }, "auto", threads)).state), wanted);
  }
});

test("threads are given one micro-batch each at least, as many as memory holds, and none to a short run", () => {
  const batch: BatchShape = { sequences: 8, length: 16, asked: null };
  const plan = (change: Partial<BatchShape>, most: number, bytes: number | null = null, flops = large) =>
    planThreads(tinyConfig, { ...batch, ...change }, flops, null, { most, heapBytes: bytes, totalBytes: bytes });
  assert.deepEqual(plan({}, 2), { threads: 2, microSequences: 4 });
  assert.deepEqual(plan({}, 3), { threads: 3, microSequences: 2 });
  assert.deepEqual(plan({}, 64), { threads: 8, microSequences: 1 });
  assert.deepEqual(plan({ asked: 4 }, 8), { threads: 2, microSequences: 4 });
  assert.deepEqual(plan({ asked: 8 }, 8), { threads: 1, microSequences: 8 });
  assert.deepEqual(plan({ sequences: 1 }, 8), { threads: 1, microSequences: 1 });
  assert.deepEqual(plan({}, 4, null, 1e9), { threads: 1, microSequences: 8 });
  const two = 2 * estimateTrainingMemory(tinyConfig, 4, 16);
  assert.deepEqual(plan({}, 4, two), { threads: 2, microSequences: 4 }, "four heaps do not fit");
  assert.deepEqual(plan({}, 4, two / 4), { threads: 1, microSequences: 8 }, "not even two do");
  assert.deepEqual(planThreads(tinyConfig, batch, large, null, undefined), { threads: 1, microSequences: 8 });
});

test("a batch that the model has no embedding for fails on threads as on one, and the threads end", async () => {
  const work = await tinyThreadWork();
  const dataset = tinyDataset(folder, { vocab: tinyConfig.vocabSize + 1 });
  await assert.rejects(run({ ...work, dataset, microBatchSequences: 1 }, "auto", 2), { code: "unprocessable" });
});
