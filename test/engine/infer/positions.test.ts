/**
 * What the pool reserves, against what a real model takes: requests that the sum lets in together never hold more
 * pages than the budget has, however they share prompts, come, go and are given up, and all of them get their tokens.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { batching } from "../../../src/engine/infer/batcher.ts";
import { generate } from "../../../src/engine/infer/generate.ts";
import type { Reservation } from "../../../src/engine/infer/positions.ts";
import { positionStep, positionsHeld, positionsShared, positionsWanted } from "../../../src/engine/infer/positions.ts";
import { SharedPrompts } from "../../../src/engine/infer/prompts.ts";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { openTeamModel, weightsOf } from "../../../src/engine/infer/teamModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { loadInferenceKernels } from "../../../src/engine/kernels/inference/module.ts";
import { SharedHeap } from "../../../src/engine/kernels/inference/sharedHeap.ts";
import { reservationOf } from "../../../src/engine/serving/footprint.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const longest = 300;
const { checkpoint, remove } = tinyCheckpoint({
  config: {
    ...{ vocabSize: 97, hiddenSize: 36, intermediateSize: 50, numAttentionHeads: 6, numKeyValueHeads: 3 },
    ...{ headDim: 6, maxPositionEmbeddings: longest, eosTokenIds: [], bosTokenId: null },
  },
});
after(remove);
const { config } = checkpoint.manifest;
/** Keys and values of all layers in float32. */
const pageBytes = config.numHiddenLayers * 2 * config.numKeyValueHeads * positionStep * config.headDim * 4;
const plain = { temperature: 1, topP: 1, stopIds: [], logprobs: null, echo: false };

test("a step of positions is a page of the kernels", async () => {
  const kernels = await loadInferenceKernels("simd128", new SharedHeap().memory);
  assert.equal(kernels.page_positions(), positionStep);
});

test("what a prompt shares is its whole pages before its last token, counted once while anyone holds it", () => {
  const cases = [1, 64, 65, 128, 129, 300].map((tokens) => [tokens, positionsShared(tokens)]);
  assert.deepEqual(cases, [
    [1, 0],
    [64, 0],
    [65, 64],
    [128, 64],
    [129, 128],
    [300, 256],
  ]);
  const of = (first: number, tokens: number, change: Partial<GenerateRequest> = {}): Reservation => {
    const promptIds = Array.from({ length: tokens }, (_, i) => (first + i) % 97);
    return reservationOf({ ...plain, promptIds, maxTokens: 20, seed: 0, ...change }, longest);
  };
  const [a, b, c] = [of(0, 130), of(0, 130, { maxTokens: 300, seed: 1 }), of(1, 130)];
  assert.deepEqual([a.positions, b.positions, a.shared, b.shared], [192, 320, 128, 128]);
  assert.equal(positionsHeld([a, b]), 192 + 320 - 128);
  assert.equal(positionsHeld([b, a, a]), 320 + 64 + 64);
  assert.equal(positionsHeld([a, c]), 2 * 192, "another prompt is another");
  const scored = of(0, 130, { echo: true, logprobs: 0 });
  assert.equal(positionsHeld([a, scored, scored]), 3 * 192, "a prompt that is scored is computed anew");
  assert.equal(positionsHeld([of(0, 64), of(0, 64)]), 2 * 128, "the page that is written to is each one's own");
  assert.equal(positionsHeld([of(0, 130, { maxTokens: 0 })]), 0, "nothing is computed");
  assert.equal(of(0, 301, { echo: true, logprobs: 0 }).positions, 320);
});

/** A model whose pages are counted. */
async function openModel() {
  const { take, give } = SharedHeap.prototype;
  const pages = new Set<number>();
  const model = { mayTake: (_count: number): boolean => true };
  SharedHeap.prototype.take = function (wantedBytes) {
    const isPage = wantedBytes === pageBytes;
    if (isPage && !model.mayTake(pages.size + 1)) throw new CodedError("out_of_memory", "no page more in this test");
    const at = take.call(this, wantedBytes);
    if (isPage) pages.add(at);
    return at;
  };
  SharedHeap.prototype.give = function (at) {
    pages.delete(at);
    give.call(this, at);
  };
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm", "wasm-simd");
  assert.ok(kernels.inference);
  const { decoder, close } = await openTeamModel(config, weightsOf(checkpoint), kernels.inference, 1);
  return Object.assign(model, {
    ...{ decoder, pages },
    close() {
      close();
      Object.assign(SharedHeap.prototype, { take, give });
    },
  });
}

/** Requests of which many have one prompt, or prompts that differ in their last tokens alone. */
function randomRequests(uniform: () => number, count: number): GenerateRequest[] {
  const below = (most: number): number => Math.floor(uniform() * most);
  const lengths = [64, 65, 122, 129, 130, 192, 193, 257, 299, 300];
  return Array.from({ length: count }, (): GenerateRequest => {
    const length = lengths[below(lengths.length)]!;
    const promptIds = Array.from({ length }, (_, i) => (i * i + (i === length - 1 ? length : 0)) % 97);
    const scores = uniform() < 0.25 ? { echo: true, logprobs: 1 } : {};
    return { ...plain, promptIds, maxTokens: below(uniform() < 0.5 ? 8 : 70), seed: below(3), ...scores };
  }).flatMap((request) => Array.from({ length: 1 + below(4) }, (_, i) => ({ ...request, seed: request.seed + i })));
}

interface Crowd {
  readonly active: Set<Reservation>;
  /** What each request got; null for one that was given up. */
  run(requests: readonly GenerateRequest[]): Promise<(GenerateEvent[] | null)[]>;
}

/** Requests on a model, let in by the sum one after another, some of them given up. */
function crowdOn(prompts: SharedPrompts, budget: number, uniform: () => number): Crowd {
  const active = new Set<Reservation>();
  const released = new Set<() => void>();
  const release = (reservation: Reservation): void => {
    active.delete(reservation);
    for (const go of released) go();
    released.clear();
  };
  const answer = async (request: GenerateRequest, reservation: Reservation): Promise<GenerateEvent[] | null> => {
    const events: GenerateEvent[] = [];
    const controller = new AbortController();
    const leavesAfter = uniform() < 0.2 ? Math.floor(uniform() * 12) : Infinity;
    if (leavesAfter < 4) setTimeout(() => controller.abort(), leavesAfter);
    try {
      for await (const event of generate(prompts, request, controller.signal)) {
        if (event.type !== "cached") events.push(event);
        if (events.length > leavesAfter) return null;
      }
      return events;
    } catch (error) {
      if (error instanceof CodedError && error.code === "cancelled") return null;
      throw error;
    } finally {
      release(reservation);
    }
  };
  return {
    active,
    async run(requests) {
      const answers: Promise<GenerateEvent[] | null>[] = [];
      for (const request of requests) {
        const reservation = reservationOf(request, longest);
        while (positionsHeld([...active, reservation]) > budget * positionStep) {
          await new Promise<void>((resolve) => released.add(resolve));
        }
        active.add(reservation);
        const answering = answer(request, reservation);
        answering.catch(() => undefined);
        answers.push(answering);
        if (uniform() < 0.3) await new Promise((resolve) => setImmediate(resolve));
      }
      return Promise.all(answers);
    },
  };
}

test("at no time do those at work hold a page more than the sum of what they reserved", async () => {
  const model = await openModel();
  for (let seed = 0; seed < 4; seed++) {
    const { uniform } = seededStream(seed, "positions");
    const prompts = new SharedPrompts(batching(model.decoder), { positions: 0, sharesPages: true });
    const { active, run } = crowdOn(prompts, 12, uniform);
    let unshared = 0;
    model.mayTake = (count) => {
      unshared = Math.max(
        unshared,
        [...active].reduce((sum, { positions }) => sum + positions, 0),
      );
      return count * positionStep <= positionsHeld(active);
    };
    await run(randomRequests(uniform, 60));
    assert.ok(unshared > 1.5 * 12 * positionStep, `${unshared} positions, were nothing shared`);
    assert.equal(model.pages.size, 0);
  }
  model.close();
});

test("with what is kept, too, all is within the budget, used to its last page, and answers are as alone", async () => {
  const budget = 9;
  const model = await openModel();
  const { uniform } = seededStream(9, "positions");
  const relieve = (): boolean => prompts.relieve();
  const batched = batching(model.decoder, { relieve });
  const prompts = new SharedPrompts(batched, { positions: budget * positionStep, sharesPages: true });
  const { active, run } = crowdOn(prompts, budget, uniform);
  let [mostPages, fullest] = [0, 0];
  model.mayTake = (count) => {
    if (count > budget) return false;
    mostPages = Math.max(mostPages, count);
    fullest = Math.max(fullest, positionsHeld(active));
    return true;
  };
  const requests = randomRequests(uniform, 120);
  const all = await run(requests);
  assert.deepEqual([mostPages, fullest], [budget, budget * positionStep]);
  prompts.close();
  assert.equal(model.pages.size, 0);
  const alone = new SharedPrompts(batching(model.decoder), { positions: 0, sharesPages: true });
  const answered = all.flatMap((events, i) => (events === null || i % 5 > 0 ? [] : [[events, requests[i]!] as const]));
  assert.ok(answered.length > 30, `${answered.length} answers`);
  for (const [events, request] of answered) {
    const own: GenerateEvent[] = [];
    for await (const event of generate(alone, request, new AbortController().signal)) own.push(event);
    assert.deepEqual(events, own);
  }
  model.close();
});

test("the positions that generation asks for are those that are reserved", async () => {
  for (const change of [
    ...[0, 1, 2, 65, 400].map((maxTokens) => ({ maxTokens })),
    ...[0, 1, 5].map((maxTokens) => ({ maxTokens, echo: true, logprobs: 0 })),
    { maxTokens: 3, echo: true, logprobs: 0, promptIds: Array<number>(longest + 1).fill(1) },
  ]) {
    const request: GenerateRequest = { ...plain, promptIds: Array<number>(250).fill(1), seed: 0, ...change };
    let asked = 0;
    const decoder = {
      ...{ maxLength: longest, vocabSize: config.vocabSize },
      open: async ({ capacity }: { capacity: number }) => {
        asked = capacity;
        throw new CodedError("cancelled", "enough");
      },
    };
    const events = generate(decoder, request, new AbortController().signal);
    await events.next().catch(() => undefined);
    assert.equal(positionsWanted(request, longest), asked, JSON.stringify(change));
  }
});
