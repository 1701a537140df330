/** Gradients of several threads: the bytes of one thread, in the order of the micro-batches, whoever is first. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { startGradientThreads } from "../../../src/engine/backends/gradientThreads.ts";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { createHeapTransfer } from "../../../src/engine/kernels/wasm/transfer.ts";
import type { GradientSource } from "../../../src/engine/train/gradients.ts";
import { localGradients } from "../../../src/engine/train/gradients.ts";
import type { MicroBatch, Model } from "../../../src/engine/train/loss.ts";
import type { GradientThread } from "../../../src/engine/train/parallelGradients.ts";
import { parallelGradients } from "../../../src/engine/train/parallelGradients.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import { tinyConfig } from "../train/trainerFixture.ts";

const never = new AbortController().signal;

/** Threads that end with the test, however it ends: one that is left would keep the process alive. */
async function started(t: TestContext, ...args: Parameters<typeof startGradientThreads>): Promise<GradientSource> {
  const source = await startGradientThreads(...args);
  t.after(() => source.close());
  return source;
}

const compute = { tfjs: "wasm", kernels: "auto", variant: null } as const;

async function tinyModel(): Promise<
  Omit<Model, "weights"> & { weights: Map<string, tf.Variable>; dispose: () => void }
> {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm");
  const weights = new Map(
    expectedTensors(tinyConfig).map(({ name, shape }) => {
      const values = seededStream(3, name).fillNormal(new Float32Array(shape.reduce((a, b) => a * b)), 0.3);
      return [name, tf.tidy(() => tf.variable(tf.tensor(values, [...shape])))] as const;
    }),
  );
  return { kernels, config: tinyConfig, weights, dispose: () => tf.dispose([...weights.values()]) };
}

/** Micro-batches of different sizes: the larger ones come first, so that later ones are ready before them. */
async function* microBatches(count: number): AsyncGenerator<MicroBatch> {
  for (let i = 0; i < count; i++) {
    const [sequences, length] = [count - i, 9];
    const ids = Int32Array.from({ length: sequences * length }, (_, j) => (j * (i + 3)) % tinyConfig.vocabSize);
    yield { ids, targets: ids.map((id, j) => (j % 7 === 0 ? -1 : (id + 1) % tinyConfig.vocabSize)), sequences, length };
  }
}

/** Loss, tokens and gradients as numbers; the tensors are disposed of. */
async function sums(source: GradientSource, count: number): Promise<[number, number, ...Float32Array[]]> {
  const sum = await source.sum(microBatches(count), never);
  assert.ok(sum);
  const values = sum.grads.map((grad) => Float32Array.from(grad.dataSync()));
  tf.dispose([...sum.grads]);
  return [sum.loss, sum.tokens, ...values];
}

for (const threads of [2, 3]) {
  test(`${threads} threads give the bytes of one, for any number of micro-batches, and after the weights changed`, async (t) => {
    const model = await tinyModel();
    const [one, several] = [localGradients(model), await started(t, model, threads, compute)];
    for (const count of [1, 2, 3, 5]) {
      const before = tf.memory().numTensors;
      assert.deepEqual(await sums(several, count), await sums(one, count), `${count} micro-batches`);
      assert.equal(tf.memory().numTensors, before, "no tensor is left over");
      for (const weight of model.weights.values()) tf.tidy(() => weight.assign(tf.mul(weight, 0.9) as tf.Tensor));
    }
    model.dispose();
  });
}

test("what a helper fails with is thrown under its own code, and the threads can still be closed", async (t) => {
  const model = await tinyModel();
  const source = await started(t, model, 2, compute);
  async function* spoiled(): AsyncGenerator<MicroBatch> {
    yield* microBatches(1);
    for await (const batch of microBatches(1)) yield { ...batch, ids: batch.ids.map(() => tinyConfig.vocabSize) };
  }
  const error = await source.sum(spoiled(), never).then(
    () => assert.fail("it should have failed"),
    (thrown: CodedError) => thrown,
  );
  assert.equal(error.code, "invalid_request");
  assert.match(error.message, /its id is not in 0 \.\. 28/);
  await source.close();
  model.dispose();
});

test("a closed helper is reported instead of waited for", async (t) => {
  const model = await tinyModel();
  const source = await started(t, model, 2, compute);
  await source.close();
  await assert.rejects(source.sum(microBatches(2), never), /helper thread of the training has ended/);
  model.dispose();
});

test("kernels that a helper does not have are refused when it starts", async () => {
  const model = await tinyModel();
  const wrong = { tfjs: "cpu", kernels: "wasm-simd", variant: null } as unknown as typeof compute;
  await assert.rejects(startGradientThreads(model, 2, wrong), { code: "backend_unavailable" });
  model.dispose();
});

test("micro-batches are added in their order when helpers answer in another, and none are asked after an abort", async () => {
  const model = await tinyModel();
  const elements = [...model.weights.values()].reduce((sum, { size }) => sum + size, 0);
  const asked: number[] = [];
  const abort = new AbortController();
  // 2^24 + 1 + 1 is 2^24 in float32, but 1 + 1 + 2^24 is not.
  const late = (index: number, value: number, delayMs: number): GradientThread => ({
    gradient: new Float32Array(elements),
    async compute() {
      asked.push(index);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      this.gradient.fill(value);
      if (asked.length === 6) abort.abort();
      return value;
    },
    close: () => Promise.resolve(),
  });
  const helpers = [late(0, 2 ** 24, 30), late(1, 1, 10), late(2, 1, 0)];
  const source = parallelGradients(model, helpers, new Float32Array(elements), createHeapTransfer());
  const own = await localGradients(model).sum(microBatches(1), never);
  const first = await source.sum(takeFour(), never);
  for (const [i, grad] of first!.grads.entries()) {
    const wanted = own!.grads[i]!.dataSync().map((g) => Math.fround(Math.fround(Math.fround(g + 2 ** 24) + 1) + 1));
    assert.deepEqual(grad.dataSync(), wanted);
  }
  assert.equal(first!.loss, own!.loss + 2 ** 24 + 1 + 1);
  const before = tf.memory().numTensors;
  assert.equal(await source.sum(microBatches(8), abort.signal), null);
  assert.deepEqual(asked, [0, 1, 2, 0, 1, 2]);
  assert.equal(tf.memory().numTensors, before);
  tf.dispose([...own!.grads, ...first!.grads]);
  model.dispose();

  async function* takeFour(): AsyncGenerator<MicroBatch> {
    for (let i = 0; i < 4; i++) yield* microBatches(1);
  }
});
