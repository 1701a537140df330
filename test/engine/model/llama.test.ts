/**
 * The model against transformers: logits of seven awkward shapes in three element types, of the real
 * checkpoints, and of what greedy decoding with the cache says.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { KvCache } from "../../../src/engine/model/kvCache.ts";
import { hiddenStates, logits } from "../../../src/engine/model/llama.ts";
import { disposeWeights, loadWeights } from "../../../src/engine/model/weights.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { maxDifference, readGolden, resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const shapes = [
  "attn_bias",
  "gqa8_2_tied",
  "headdim12_theta5e5",
  "llama3_rope",
  "mqa3_hd16",
  "one_head_one_layer",
  "prime_dims",
];
/** What the golden values' README suggests; an independent float64 run comes within 5.1e-5. */
const tolerance = 1e-3;

interface GoldenPrompt {
  name: string;
  input_ids: number[];
  greedy?: number[];
  greedy_margin?: number[];
}

/** Logits of one sequence, all at once. */
async function logitsOf(
  kernels: Kernels,
  config: LlamaConfig,
  weights: Map<string, tf.Tensor>,
  ids: number[],
): Promise<Float32Array> {
  const result = tf.tidy(() => {
    const x = hiddenStates(kernels, config, weights, Int32Array.from(ids), 1, ids.length);
    return logits(kernels, config, weights, x);
  });
  const values = (await result.data()) as Float32Array;
  result.dispose();
  return values;
}

/** The same, fed to a cache in pieces of the given lengths. */
async function cachedLogits(
  kernels: Kernels,
  config: LlamaConfig,
  weights: Map<string, tf.Tensor>,
  ids: number[],
  pieces: number[],
): Promise<Float32Array> {
  const cache = new KvCache(config.numHiddenLayers);
  const all: number[] = [];
  let at = 0;
  for (const length of pieces) {
    const part = Int32Array.from(ids.slice(at, at + length));
    const result = tf.tidy(() =>
      logits(kernels, config, weights, hiddenStates(kernels, config, weights, part, 1, length, [cache])),
    );
    all.push(...(await result.data()));
    result.dispose();
    at += length;
  }
  cache.dispose();
  return Float32Array.from(all);
}

for (const [backend, choice] of [
  ["cpu", "reference"],
  ["wasm", "reference"],
  ["wasm", "auto"],
] as const) {
  for (const shape of shapes) {
    for (const dtype of ["f32", "bf16", "f16"]) {
      const folder = sharedData("golden", "hf", "tiny_models", `${shape}.${dtype}`);
      test(
        `${backend}/${choice}: ${shape} in ${dtype} has the logits of transformers, with and without a cache`,
        needsShared(folder),
        async () => {
          await activateTfjs(backend);
          const { kernels } = await kernelsFor(backend, choice);
          const before = tf.memory().numTensors;
          const checkpoint = resolveFolder(folder as string);
          const { config } = checkpoint.manifest;
          const weights = await loadWeights(checkpoint);
          const golden = readGolden(join(folder as string, "golden.logits.safetensors"));
          const { prompts } = JSON.parse(readFileSync(join(folder as string, "golden.json"), "utf8")) as {
            prompts: GoldenPrompt[];
          };
          for (const { name, input_ids: ids } of prompts) {
            const wanted = golden.get(name)!.values;
            const whole = await logitsOf(kernels, config, weights, ids);
            const worst = maxDifference(whole, wanted);
            assert.ok(worst <= tolerance, `${name}: ${worst}`);
            if (ids.length < 4) continue;
            const pieces = await cachedLogits(kernels, config, weights, ids, [1, 2, ids.length - 3]);
            assert.ok(maxDifference(pieces, wanted) <= tolerance, `${name} through a cache`);
          }
          disposeWeights(weights);
          assert.equal(tf.memory().numTensors, before, "no tensor is left over");
        },
      );
    }
  }
}

const real = ["stories260K", "stories260K-bf16", "stories260K-f16-sharded", "babyllama-tok361"];
for (const name of real) {
  const folder = sharedData("checkpoints", name);
  const goldenFile = sharedData("golden", "hf", "logits", `${name}.json`);
  test(
    `wasm: the trained checkpoint ${name} has the logits and the greedy text of transformers`,
    needsShared(folder, goldenFile),
    async () => {
      await activateTfjs("wasm");
      const { kernels } = await kernelsFor("wasm");
      const checkpoint = resolveFolder(folder as string);
      const { config } = checkpoint.manifest;
      const weights = await loadWeights(checkpoint);
      const golden = readGolden((goldenFile as string).replace(/json$/, "logits.safetensors"));
      const { prompts } = JSON.parse(readFileSync(goldenFile as string, "utf8")) as { prompts: GoldenPrompt[] };
      for (const { name: prompt, input_ids: ids, greedy = [], greedy_margin: margins = [] } of prompts) {
        const wanted = golden.get(prompt)!.values;
        const worst = maxDifference(await logitsOf(kernels, config, weights, ids), wanted);
        assert.ok(worst <= tolerance, `${prompt}: ${worst}`);
        if (prompt !== "p5") continue;
        const cache = new KvCache(config.numHiddenLayers);
        let next = ids;
        for (const [step, token] of greedy.entries()) {
          const result = tf.tidy(() => {
            const x = hiddenStates(kernels, config, weights, Int32Array.from(next), 1, next.length, [cache]);
            return logits(kernels, config, weights, tf.slice(x, [next.length - 1, 0], [1, x.shape[1]]));
          });
          const values = (await result.data()) as Float32Array;
          result.dispose();
          const best = values.indexOf(Math.max(...values));
          if ((margins[step] as number) < tolerance) break; // a tie is not an error, but the texts part here
          assert.equal(best, token, `greedy step ${step}`);
          next = [token];
        }
        cache.dispose();
      }
      disposeWeights(weights);
    },
  );
}

test(
  "sequences of different lengths decoded together get the logits that each gets alone",
  needsShared(sharedData("checkpoints", "stories260K")),
  async () => {
    await activateTfjs("wasm");
    const { kernels } = await kernelsFor("wasm");
    const checkpoint = resolveFolder(sharedData("checkpoints", "stories260K") as string);
    const { config } = checkpoint.manifest;
    const weights = await loadWeights(checkpoint);
    const prompts = [
      [1, 403, 407],
      [1, 261, 378, 432, 383, 286, 261],
    ];
    const caches = prompts.map(() => new KvCache(config.numHiddenLayers));
    for (const [i, prompt] of prompts.entries()) {
      const cache = caches[i] as KvCache;
      hiddenStates(kernels, config, weights, Int32Array.from(prompt), 1, prompt.length, [cache]).dispose();
    }
    const together = hiddenStates(kernels, config, weights, Int32Array.from([300, 301]), 2, 1, caches);
    const rows = logits(kernels, config, weights, together);
    const got = (await rows.data()) as Float32Array;
    for (const [i, prompt] of prompts.entries()) {
      const alone = (await logitsOf(kernels, config, weights, [...prompt, 300 + i])).slice(-config.vocabSize);
      assert.ok(maxDifference(got.slice(i * config.vocabSize, (i + 1) * config.vocabSize), alone) <= 1e-4);
    }
    tf.dispose([together, rows]);
    caches.forEach((cache) => cache.dispose());
    disposeWeights(weights);
  },
);
