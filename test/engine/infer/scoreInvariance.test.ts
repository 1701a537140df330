/**
 * A log-likelihood has the same bits whatever is scored beside it, in whatever order, whether its beginning is shared,
 * and whether it is scored or echoed by generation, on each backend; and it is the one that a single pass over the
 * request alone gives. Between backends it may differ by what float32 sums in another order differ.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs, type TfjsBackendName } from "../../../src/engine/backends/tfjsRuntime.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import { LogitRow } from "../../../src/engine/infer/logitRow.ts";
import { logprobOf, rowStats } from "../../../src/engine/infer/logprobs.ts";
import { scoreStepTokens } from "../../../src/engine/infer/score.ts";
import type { ScoreRequest, ScoreResult, ServedModel } from "../../../src/engine/infer/servedModel.ts";
import { kernelsFor, type KernelChoice } from "../../../src/engine/kernels/index.ts";
import { createWebgpuKernels } from "../../../src/engine/kernels/webgpu/createWebgpuKernels.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { hiddenStates, logits } from "../../../src/engine/model/llama.ts";
import { disposeWeights, loadWeights } from "../../../src/engine/model/weights.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const signal = new AbortController().signal;
/** Sizes that are no multiples of any tile. */
const wide = tinyCheckpoint({
  config: {
    ...{ vocabSize: 501, hiddenSize: 132, intermediateSize: 260, numAttentionHeads: 6, numKeyValueHeads: 3 },
    ...{ headDim: 22, maxPositionEmbeddings: 256, eosTokenIds: [], bosTokenId: null },
  },
});
after(() => wide.remove());

/** Between backends: sums of 1 to 100 log-probabilities of a random model, about -6 each. */
const backendTolerance = 1e-3;

/** Questions with choices, single continuations, and windows up to the whole context and its next token. */
const requests = Array.from({ length: 14 }, (_, q): ScoreRequest[] => {
  const idsOf = (length: number, seed: number): number[] =>
    Array.from({ length }, (_unused, i) => (seed * 131 + i * 37 + i * i) % 501);
  if (q % 5 === 4) return [{ ids: idsOf(q === 4 ? 257 : 100 + q, q), start: 1 }];
  const context = idsOf([3, 40, 65, 130][q % 4]!, q);
  return Array.from({ length: 1 + (q % 4) }, (_unused, choice) => {
    return { ids: [...context, ...idsOf(1 + ((q + 3 * choice) % 9), q + 50 * choice)], start: context.length };
  });
}).flat();

/** What an `echo` of the request's ids adds up to; its greedy flag by comparing floats, as the harness does. */
async function echoed(model: ServedModel, { ids, start }: ScoreRequest): Promise<ScoreResult> {
  const options = { maxTokens: 1, temperature: 0, topP: 1, seed: 0, stopIds: [], logprobs: 1, echo: true };
  let logLikelihood = 0;
  let isGreedy = true;
  for await (const event of model.generate({ promptIds: ids, ...options }, signal)) {
    if (event.type !== "prompt") continue;
    for (const entry of event.logprobs.slice(start)) {
      logLikelihood += entry?.logprob ?? NaN;
      isGreedy &&= entry?.top[0]?.[1] === entry?.logprob;
    }
  }
  return { logLikelihood, isGreedy };
}

/** One pass over the request alone, no cache, logits of every position. */
async function onePass(
  kernels: Kernels,
  weights: ReadonlyMap<string, tf.Tensor>,
  { ids, start }: ScoreRequest,
): Promise<ScoreResult> {
  const { config } = wide.checkpoint.manifest;
  const inputs = Int32Array.from(ids.slice(0, -1));
  const rows = tf.tidy(() =>
    logits(kernels, config, weights, hiddenStates(kernels, config, weights, inputs, 1, inputs.length)),
  );
  const values = (await rows.data()) as Float32Array;
  rows.dispose();
  let logLikelihood = 0;
  let isGreedy = true;
  for (let at = start; at < ids.length; at++) {
    const row = new LogitRow(values.subarray((at - 1) * config.vocabSize, at * config.vocabSize));
    const stats = rowStats(row);
    logLikelihood += logprobOf(row, stats, ids[at]!);
    isGreedy &&= stats.argmax === ids[at];
  }
  return { logLikelihood, isGreedy };
}

const missing = await missingBlas();
const noGpu = (await missingGpu()) ?? false;
type Load = () => Promise<Kernels>;
const chosen = (tfjs: TfjsBackendName, choice: KernelChoice): Load => {
  return async () => (await kernelsFor(tfjs, choice)).kernels;
};
const backends: readonly (readonly [name: string, tfjs: TfjsBackendName, load: Load, skip: string | false])[] = [
  ["cpu", "cpu", chosen("cpu", "reference"), false],
  ["wasm", "wasm", chosen("wasm", "wasm-simd"), false],
  ["native", "wasm", chosen("wasm", "native"), missing ?? false],
  ["webgpu", "webgpu", chosen("webgpu", "webgpu"), noGpu],
  ["webgpu/tiles", "webgpu", () => createWebgpuKernels({ family: "tiles" }), noGpu],
];
/** What takes them a second for each request; the requests below are of all kinds. */
const slow = ["cpu", "webgpu", "webgpu/tiles"];
const measured = new Map<string, ScoreResult[]>();

for (const [name, tfjs, load, skip] of backends) {
  describe(`${name}: a score has the same bits`, { skip }, () => {
    let model: ServedModel;
    let kernels: Kernels;
    let together: ScoreResult[];
    const own = slow.includes(name) ? requests.slice(0, 7) : requests;

    before(async () => {
      await activateTfjs(tfjs);
      kernels = await load();
      model = await loadServedModel(wide.checkpoint, kernels, { threads: 2 });
      together = await model.score(own, signal);
      measured.set(name, together);
    });
    after(() => model.close());

    // Compared as bits: deepEqual of numbers is Object.is.
    const resultOf = (request: ScoreRequest): ScoreResult => together[own.indexOf(request)]!;

    test("alone, in another order, in parts, and beside others", async () => {
      for (const request of own) assert.deepEqual(await model.score([request], signal), [resultOf(request)]);
      const order = [...own.keys()].map((i) => (i * 5 + 3) % own.length);
      const shuffled = await model.score(
        order.map((i) => own[i]!),
        signal,
      );
      assert.deepEqual(
        shuffled,
        order.map((i) => together[i]),
      );
      const half = own.length >> 1;
      const parts = [
        ...(await model.score(own.slice(0, half), signal)),
        ...(await model.score(own.slice(half), signal)),
      ];
      assert.deepEqual(parts, together);
    });

    test("scored or echoed by generation, which is how the completions API answers", async () => {
      for (const request of own) assert.deepEqual(await echoed(model, request), resultOf(request));
    });

    test("by one pass over the request alone, without any cache", async () => {
      const weights = await loadWeights(wide.checkpoint);
      for (const request of own) assert.deepEqual(await onePass(kernels, weights, request), resultOf(request));
      disposeWeights(weights);
    });
  });
}

test("a step all of whose rows are scored, as many as there may be, by one thread and by several", async () => {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm", "wasm-simd");
  // Pages of a text: whole windows, one after the other.
  const pages = Array.from({ length: 5 }, (_, page): ScoreRequest => {
    return { ids: Array.from({ length: 257 }, (_unused, i) => (page * 77 + i * 31 + i * i) % 501), start: 1 };
  });
  assert.ok(pages.length * 256 > scoreStepTokens);
  const alone: ScoreResult[] = [];
  for (const threads of [1, 2, 3]) {
    const model = await loadServedModel(wide.checkpoint, kernels, { threads });
    if (threads === 1) for (const page of pages) alone.push(...(await model.score([page], signal)));
    assert.deepEqual(await model.score(pages, signal), alone, `${threads} threads`);
    model.close();
  }
});

test("backends differ by no more than float32 sums in another order, and native not at all from wasm", () => {
  const wasm = measured.get("wasm");
  assert.ok(wasm);
  for (const [name, results] of measured) {
    results.forEach(({ logLikelihood }, i) => {
      const off = Math.abs(logLikelihood - wasm[i]!.logLikelihood);
      assert.ok(off <= (name === "native" ? 0 : backendTolerance), `${name}, request ${i}: off by ${off}`);
    });
  }
});
