/**
 * The one kernel for a layer of a step: the bytes of the single operations, in the stream and in the caches, for odd
 * sizes, grouped heads, biases, and sequences that are at different positions.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import { KvCache } from "../../../src/engine/model/kvCache.ts";
import { stepStates } from "../../../src/engine/model/llama.ts";
import { disposeWeights } from "../../../src/engine/model/weights.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { sample } from "../kernels/kernelContract.ts";
import { tinyConfig } from "../train/trainerFixture.ts";

const missing = await missingBlas();

const configs: Readonly<Record<string, LlamaConfig>> = {
  "tiny, tied, grouped heads, attention biases": tinyConfig,
  "odd widths, three key/value heads, biases everywhere": {
    ...tinyConfig,
    ...{ vocabSize: 53, hiddenSize: 27, intermediateSize: 45, numAttentionHeads: 6, numKeyValueHeads: 3 },
    ...{ headDim: 10, attentionBias: true, mlpBias: true, tieWordEmbeddings: false, maxPositionEmbeddings: 256 },
  },
  "wide enough for blocks of the summed index and for BLAS": {
    ...tinyConfig,
    ...{ hiddenSize: 264, intermediateSize: 520, headDim: 44, numAttentionHeads: 6, numKeyValueHeads: 6 },
    ...{ attentionBias: false, maxPositionEmbeddings: 256 },
  },
};

function weightsOf(config: LlamaConfig): Map<string, tf.Tensor> {
  return new Map(
    expectedTensors(config).map(({ name, shape }, i) => {
      const values = sample(
        shape.reduce((a, b) => a * b),
        i + 1,
      );
      return [
        name,
        tf.tensor(
          Float32Array.from(values, (x) => x * 0.3),
          [...shape],
        ),
      ] as const;
    }),
  );
}

/** Rows that three sequences add in each of the steps; a sequence may sit one out. */
const steps: readonly (readonly [number, number, number])[] = [
  [5, 0, 1],
  [1, 70, 1],
  [1, 1, 1],
  [3, 1, 20],
  [0, 1, 1],
];

function bytesOf(tensor: tf.Tensor): Buffer {
  const values = tensor.dataSync();
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

/** @returns the stream of each step, and what the caches hold in the end. */
function runSteps(kernels: Kernels, config: LlamaConfig, weights: ReadonlyMap<string, tf.Tensor>): Buffer[] {
  const caches = [0, 1, 2].map(() => new KvCache(config.numHiddenLayers));
  const results = steps.map((rows, step) => {
    const sequences = caches.map((cache, i) => ({ cache, rows: rows[i]! })).filter((one) => one.rows > 0);
    const count = rows.reduce((sum, one) => sum + one, 0);
    const ids = Int32Array.from({ length: count }, (_, i) => (step * 7 + i * 3) % config.vocabSize);
    const x_RD = stepStates(kernels, config, weights, ids, sequences);
    const bytes = bytesOf(x_RD);
    x_RD.dispose();
    return bytes;
  });
  for (const cache of caches) {
    for (let layer = 0; layer < config.numHiddenLayers; layer++) {
      const { keys, values } = cache.reserve(layer, cache.length, config.numKeyValueHeads, config.headDim);
      const held = cache.length * config.numKeyValueHeads * config.headDim * 4;
      results.push(bytesOf(keys).subarray(0, held), bytesOf(values).subarray(0, held));
    }
    cache.dispose();
  }
  return results;
}

for (const [name, choice, variant, skip] of [
  ...kernelVariants.filter(variantRuns).map((build) => [build, "wasm-simd", build, null] as const),
  ["native", "native", null, missing] as const,
]) {
  test(`${name}: a layer in one call has the bytes of its operations`, { skip: skip ?? false }, async () => {
    await activateTfjs("wasm");
    const { kernels } = await kernelsFor("wasm", choice, variant);
    assert.ok(kernels.cachedBlock, "these kernels have it");
    const { cachedBlock: _left, ...single } = kernels;
    for (const [title, config] of Object.entries(configs)) {
      const weights = weightsOf(config);
      const before = tf.memory().numTensors;
      const wanted = runSteps(single, config, weights);
      const got = runSteps(kernels, config, weights);
      got.forEach((bytes, i) => assert.ok(bytes.equals(wanted[i]!), `${title}: result ${i}`));
      assert.equal(tf.memory().numTensors, before, "no tensor is left over");
      disposeWeights(weights);
    }
  });
}
