/** The memory estimate is an upper bound of what is really allocated, and the micro-batch follows from it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { AdamW } from "../../../src/engine/train/adamw.ts";
import { lossAndGradients } from "../../../src/engine/train/loss.ts";
import type { MicroBatch } from "../../../src/engine/train/loss.ts";
import { chooseMicroBatch, estimateTrainingMemory } from "../../../src/engine/train/memory.ts";
import { trainStep } from "../../../src/engine/train/step.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import { tinyConfig } from "./trainerFixture.ts";

const wide: LlamaConfig = {
  ...tinyConfig,
  vocabSize: 2000,
  hiddenSize: 128,
  intermediateSize: 352,
  numHiddenLayers: 6,
  numAttentionHeads: 8,
  numKeyValueHeads: 4,
  headDim: 16,
  maxPositionEmbeddings: 256,
};

function heapBytes(): number {
  return (tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } }).wasm.HEAPU8.byteLength;
}

// First, while the heap is new: it never shrinks, and growth is all one sees of it.
test("a backward pass needs little more than the forward pass has kept, and neither copies an activation", async () => {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm", "reference");
  const deep: LlamaConfig = { ...wide, vocabSize: 50, numHiddenLayers: 12 };
  const weights = new Map(expectedTensors(deep).map(({ name, shape }) => [name, tf.fill([...shape], 0.01)]));
  const before = heapBytes();
  const ids = Int32Array.from({ length: 512 }, (_, i) => i % 50);
  const { loss, grads } = lossAndGradients(
    { kernels, config: deep, weights },
    { ids, targets: ids, sequences: 4, length: 128 },
  );
  const gradBytes = grads.reduce((sum, grad) => sum + grad.size * 4, 0);
  const layerBytes = 512 * 4 * (6 * 128 + 3 * 128 + 3 * 64 + 3 * 352);
  const grown = heapBytes() - before;
  tf.dispose([loss, ...grads, ...weights.values()]);
  // The heap grows in steps of up to a fifth of itself.
  const limit = 1.25 * (14 * layerBytes + gradBytes);
  assert.ok(grown <= limit, `${grown} bytes; a layer keeps ${layerBytes}, gradients take ${gradBytes}`);
  assert.ok(grown >= 8 * layerBytes, `${grown} bytes are too few for this test to mean anything`);
});

test("two updates with accumulation grow the wasm heap by less than the estimate", async () => {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm");
  const before = heapBytes();
  const [sequences, length] = [4, 128];
  const weights = new Map(
    expectedTensors(wide).map(({ name, shape }) => [
      name,
      tf.tidy(() => tf.variable(tf.randomNormal([...shape], 0, 0.05, "float32", 3))),
    ]),
  );
  const optimizer = new AdamW(
    kernels,
    {
      type: "adamw",
      learningRate: 1e-3,
      betas: [0.9, 0.95],
      eps: 1e-8,
      weightDecay: 0,
      decay: "all",
      clip: 1,
    },
    weights,
    null,
  );
  const ids = Int32Array.from({ length: sequences * length }, (_, i) => (i * 7) % wide.vocabSize);
  async function* batches(): AsyncGenerator<MicroBatch> {
    for (let i = 0; i < 2; i++) yield { ids, targets: ids, sequences, length };
  }
  for (let step = 1; step <= 2; step++) {
    await trainStep(
      { kernels, config: wide, weights },
      optimizer,
      batches(),
      { learningRate: 1e-3, clip: 1, step },
      new AbortController().signal,
    );
  }
  const grown = heapBytes() - before;
  const estimate = estimateTrainingMemory(wide, sequences, length);
  assert.ok(grown <= estimate, `${grown} bytes, estimated ${estimate}`);
  optimizer.dispose();
  tf.dispose([...weights.values()]);
});

test("the estimate grows with parameters, sequences and length", () => {
  const base = estimateTrainingMemory(wide, 2, 64);
  assert.ok(estimateTrainingMemory(wide, 4, 64) > base);
  assert.ok(estimateTrainingMemory(wide, 2, 128) > base);
  assert.ok(estimateTrainingMemory({ ...wide, numHiddenLayers: 12 }, 2, 64) > base);
});

test("the micro-batch is the largest divisor of the batch that fits, of at most 4096 tokens", () => {
  assert.equal(chooseMicroBatch(wide, 12, 64, null, null), 12);
  assert.equal(chooseMicroBatch(wide, 12, 1024, null, null), 4);
  assert.equal(chooseMicroBatch(wide, 7, 1024, null, null), 1);
  assert.equal(chooseMicroBatch(wide, 12, 64, null, estimateTrainingMemory(wide, 5, 64)), 4);
  assert.equal(chooseMicroBatch(wide, 12, 8192, null, null), 1);
  assert.equal(chooseMicroBatch(wide, 12, 1024, 12, null), 12, "what was asked for is taken");
});
