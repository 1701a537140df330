/**
 * A request gets the same bits alone and in a batch: every log-probability, of the prompt and of what is generated, on
 * the wasm and on the native kernels, with neighbours that come, go and give up at other times, and with what was kept
 * of the same prompt.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import type { GenerateEvent, GenerateRequest, ServedModel } from "../../../src/engine/infer/servedModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

// The library chooses its kernels itself, whatever this machine was told.
delete process.env["OPENBLAS_CORETYPE"];
const missing = await missingBlas();
/** Wide enough for a batch to go to BLAS, with sizes that are no multiples of its tiles. */
const wide = tinyCheckpoint({
  config: {
    ...{ vocabSize: 1003, hiddenSize: 264, intermediateSize: 520, numAttentionHeads: 6, numKeyValueHeads: 3 },
    ...{ headDim: 44, maxPositionEmbeddings: 256, eosTokenIds: [], bosTokenId: null },
  },
});
after(() => wide.remove());

async function eventsOf(model: ServedModel, request: GenerateRequest, leaveAfter = Infinity): Promise<GenerateEvent[]> {
  const controller = new AbortController();
  const events: GenerateEvent[] = [];
  try {
    for await (const event of model.generate(request, controller.signal)) {
      events.push(event);
      if (events.length >= leaveAfter) controller.abort();
    }
  } catch (error) {
    if (leaveAfter === Infinity) throw error;
  }
  return events;
}

/** Prompts of 1 to 150 tokens, of which some are scored, greedy and sampled. */
const requests = Array.from({ length: 14 }, (_, i): GenerateRequest => {
  const length = [1, 2, 150, 7, 33, 64, 65, 90][i % 8]!;
  return {
    promptIds: Array.from({ length }, (_, t) => (i * 131 + t * 37 + t * t) % 1003),
    ...{ maxTokens: 5 + (i % 7), temperature: i % 3 === 0 ? 0 : 1, topP: i % 3 === 2 ? 0.8 : 1, seed: i },
    ...{ stopIds: [], logprobs: 3, echo: i % 2 === 0 },
  };
});

/** @returns a prompt as long that shares nothing with the request's. */
const others = ({ promptIds }: GenerateRequest): number[] => promptIds.map((id) => (id + 1) % 1003);

/** @returns how many sequences were in one step at most since the last question. */
const mostSequences = (model: ServedModel): number =>
  (model.takeSteps?.() ?? []).reduce((most, { sequences }) => Math.max(most, sequences), 0);

for (const [name, load, threads, cacheDtype, skip] of [
  ["wasm", () => kernelsFor("wasm", "wasm-simd"), 1, "F32", null],
  ["wasm, three threads", () => kernelsFor("wasm", "wasm-simd"), 3, "F32", null],
  ["native, two threads", () => kernelsFor("wasm", "native"), 2, "F32", missing],
  ["native, caches of bfloat16", () => kernelsFor("wasm", "native"), 2, "BF16", missing],
] as const) {
  test(`${name}: a request gets the same bits alone and in any company`, { skip: skip ?? false }, async () => {
    await activateTfjs("wasm");
    const { kernels } = await load();
    const model = await loadServedModel(wide.checkpoint, kernels, { threads, cacheDtype });
    const numTensors = tf.memory().numTensors;
    const alone: GenerateEvent[][] = [];
    for (const request of requests) alone.push(await eventsOf(model, request));
    const mostAlone = mostSequences(model);
    for (const order of [1, 5]) {
      const together = await Promise.all(
        requests.map(async (_, i) => {
          const which = (i * order) % requests.length;
          for (let pause = 0; pause < 3 * i; pause++) await new Promise((resolve) => setImmediate(resolve));
          void eventsOf(model, { ...requests[which]!, promptIds: others(requests[which]!), seed: 99 }, 2);
          return [which, await eventsOf(model, requests[which]!)] as const;
        }),
      );
      // Compared as bits: deepEqual of numbers is Object.is.
      for (const [which, events] of together) assert.deepStrictEqual(events, alone[which], `request ${which}`);
    }
    assert.equal(mostAlone, 1);
    const mostTogether = mostSequences(model);
    assert.ok(mostTogether > 8, `at most ${mostTogether} sequences were in one step`);
    assert.equal(tf.memory().numTensors, numTensors, "no tensor is left behind");
    model.close();
    const keeping = await loadServedModel(wide.checkpoint, kernels, { threads, cacheDtype, cachePositions: 1500 });
    let cached = 0;
    for (const order of [1, 5, 3]) {
      await Promise.all(
        requests.map(async (_, i) => {
          const which = (i * order) % requests.length;
          void eventsOf(keeping, { ...requests[which]!, seed: 99 }, 2);
          const [first, ...rest] = await eventsOf(keeping, requests[which]!);
          if (first?.type === "cached") cached += first.tokens;
          const events = first?.type === "cached" ? rest : [first, ...rest];
          assert.deepStrictEqual(events, alone[which], `request ${which}, with what was kept`);
        }),
      );
    }
    assert.ok(cached > 300, `${cached} tokens were found`);
    keeping.close();
  });
}
