/** The pool's promises to its callers, on real processes that hold a model made of arithmetic (tableChild.ts). */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Registry } from "prom-client";
import type { GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { createModelPool } from "../../../src/engine/serving/pool.ts";
import type { PoolLimits } from "../../../src/engine/serving/pool.ts";
import { createPoolMetrics } from "../../../src/engine/serving/poolMetrics.ts";
import type { ModelPool } from "../../../src/engine/serving/types.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";

const entry = new URL("./tableChild.ts", import.meta.url);
const never = new AbortController().signal;
const pools: ModelPool[] = [];
after(() => Promise.all(pools.map((pool) => pool.close())));

function checkpoint(id: string, rows = 50): ResolvedCheckpoint {
  const config = {
    vocabSize: rows,
    hiddenSize: 8,
    intermediateSize: 8,
    numHiddenLayers: 1,
    numAttentionHeads: 1,
    numKeyValueHeads: 1,
    headDim: 8,
    maxPositionEmbeddings: 1000,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    ropeScaling: null,
    tieWordEmbeddings: true,
    attentionBias: false,
    mlpBias: false,
    initializerRange: 0.02,
    bosTokenId: 1,
    eosTokenIds: [2],
  };
  const tensor = {
    name: "t",
    dtype: "F32",
    shape: [rows, 8],
    blob: "b",
    offset: 0,
    sizeBytes: 32 * rows,
    sha256: "",
  } as const;
  const manifest = {
    architecture: "llama",
    config,
    configJson: {},
    tensors: [tensor],
    files: [],
    original: null,
    optimizer: null,
  } as const;
  return { id, manifest, blobs: {} };
}

interface PoolSetup extends Partial<PoolLimits> {
  backend?: string;
  failures?: string[];
  registry?: Registry;
}

function makePool({ backend = "table", failures, registry, ...limits }: PoolSetup = {}): ModelPool {
  const pool = createModelPool({
    backends: [backend],
    limits,
    entry,
    onFailure: (id, error) => failures?.push(`${id}: ${(error as CodedError).code}`),
    ...(registry ? { metrics: createPoolMetrics(registry) } : {}),
  });
  pools.push(pool);
  return pool;
}

/** `delayMs` per token. */
function ask(first: number, maxTokens: number, delayMs = 0): GenerateRequest {
  return {
    promptIds: [first],
    maxTokens,
    temperature: delayMs,
    topP: 1,
    seed: 0,
    stopIds: [],
    logprobs: null,
    echo: false,
  };
}

async function ids(pool: ModelPool, id: string, request: GenerateRequest, signal = never): Promise<number[]> {
  const out: number[] = [];
  for await (const event of pool.generate(checkpoint(id), request, signal))
    if (event.type === "token") out.push(event.id);
  return out;
}

function expected(first: number, count: number): number[] {
  const out: number[] = [];
  for (let sum = first; out.length < count; sum += out.at(-1)! + 1) out.push(sum % 50);
  return out;
}

function coded(...codes: string[]): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof CodedError, String(error));
    assert.ok(codes.includes(error.code), `${error.code}: ${error.message}`);
    return true;
  };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (condition()) return;
    await sleep(10);
  }
  assert.fail(`still not after 5 s: ${what}`);
}

test("a model is loaded at the first request, stays warm, and metrics tell of it", async () => {
  const registry = new Registry();
  const pool = makePool({ registry });
  assert.deepEqual(pool.warm(), []);
  assert.deepEqual(await ids(pool, "a", ask(3, 5)), expected(3, 5));
  assert.deepEqual(pool.warm(), ["a"]);
  assert.deepEqual(await ids(pool, "a", ask(4, 5)), expected(4, 5));
  const text = await registry.metrics();
  assert.match(text, /cambium_serving_tokens_total 10\n/);
  assert.match(text, /cambium_serving_first_token_seconds_count 2\n/);
  assert.match(text, /cambium_serving_queued 0\n/);
  assert.match(text, /cambium_serving_processes 1\n/);
});

test("a process that dies fails only its own requests, and the next request starts another", async () => {
  const failures: string[] = [];
  const pool = makePool({ failures });
  const other = ids(pool, "other", ask(5, 40, 10));
  const victim = ids(pool, "a", ask(5, 400, 10));
  await until(() => pool.warm().includes("a"), "a is warm");
  await assert.rejects(Promise.all([victim, ids(pool, "a", ask(901, 1))]), coded("compute_crashed"));
  assert.deepEqual(await other, expected(5, 40));
  assert.deepEqual(await ids(pool, "a", ask(6, 3)), expected(6, 3));
  assert.deepEqual(failures, ["a: compute_crashed"]);
});

test("an error of the model reaches its request, and the process lives on", async () => {
  const pool = makePool();
  await assert.rejects(ids(pool, "a", ask(902, 1)), coded("diverged"));
  assert.deepEqual(pool.warm(), ["a"]);
});

test("a process that speaks nonsense, or is silent for too long, is ended", async () => {
  const failures: string[] = [];
  const pool = makePool({ failures, stuckTimeoutMs: 1500 });
  await assert.rejects(ids(pool, "a", ask(903, 100, 20)), coded("compute_crashed"));
  await assert.rejects(ids(pool, "a", ask(904, 1)), coded("timeout"));
  assert.deepEqual(failures, ["a: compute_crashed", "a: timeout"]);
});

test("a checkpoint that cannot be loaded says why, each time", async () => {
  const pool = makePool({ backend: "broken" });
  await assert.rejects(ids(pool, "a", ask(1, 1)), coded("checkpoint_corrupt"));
  await assert.rejects(ids(pool, "a", ask(1, 1)), coded("checkpoint_corrupt"));
});

test("loading has a time limit, and a request that is given up does not wait for it", async () => {
  const pool = makePool({ backend: "slow", loadTimeoutMs: 1500 });
  const controller = new AbortController();
  const given = ids(pool, "a", ask(1, 1), controller.signal);
  const waits = ids(pool, "a", ask(1, 1));
  waits.catch(() => undefined);
  setTimeout(() => controller.abort(), 50);
  await assert.rejects(given, coded("cancelled"));
  await assert.rejects(waits, coded("timeout"));
});

test("a full line turns requests away with a time to come again; giving up frees the place", async () => {
  const pool = makePool({ maxActive: 1, maxQueued: 2 });
  await ids(pool, "a", ask(1, 1));
  const controllers = [0, 1, 2].map(() => new AbortController());
  const running = controllers.map((controller) => ids(pool, "a", ask(1, 500, 10), controller.signal));
  const outcomes = Promise.allSettled(running);
  await sleep(30);
  await assert.rejects(ids(pool, "a", ask(1, 1)), (error) => {
    coded("too_many_requests")(error);
    assert.equal((error as CodedError).details["retry_after_seconds"], 1);
    return true;
  });
  controllers[1]!.abort();
  await sleep(10);
  const last = ids(pool, "a", ask(2, 2));
  controllers[0]!.abort();
  controllers[2]!.abort();
  assert.deepEqual(await last, expected(2, 2));
  assert.deepEqual(
    (await outcomes).map((outcome) => outcome.status),
    ["rejected", "rejected", "rejected"],
  );
});

test("work already begun is not turned away by a full line", async () => {
  const pool = makePool({ maxActive: 1, maxQueued: 1 });
  const runs = [ids(pool, "a", ask(1, 20, 5)), ids(pool, "a", ask(2, 1))];
  await sleep(20);
  await assert.rejects(ids(pool, "a", ask(3, 1)), coded("too_many_requests"));
  const later: number[] = [];
  for await (const event of pool.generate(checkpoint("a"), ask(4, 2), never, true)) {
    if (event.type === "token") later.push(event.id);
  }
  assert.deepEqual(later, expected(4, 2));
  await Promise.all(runs);
});

test("waiting has a time limit", async () => {
  const pool = makePool({ maxActive: 1, queueTimeoutMs: 200 });
  const controller = new AbortController();
  const first = ids(pool, "a", ask(1, 1000, 10), controller.signal);
  first.catch(() => undefined);
  await sleep(20);
  await assert.rejects(ids(pool, "a", ask(1, 1)), coded("too_many_requests"));
  controller.abort();
});

test("the model used longest ago makes room, and a model that can never fit is refused", async () => {
  const pool = makePool({ maxModels: 2 });
  for (const id of ["a", "b", "a", "c"]) await ids(pool, id, ask(1, 1));
  assert.deepEqual([...pool.warm()].sort(), ["a", "c"]);
  const huge = pool.generate(checkpoint("huge", 2e9), ask(1, 1), never)[Symbol.asyncIterator]();
  await assert.rejects(async () => huge.next(), coded("model_too_large"));
});

test("a request for a model that must wait for room is not starved by requests on the busy one", async () => {
  const pool = makePool({ maxModels: 1, maxActive: 2 });
  const order: string[] = [];
  const run = async (id: string, tokens: number): Promise<void> => {
    await ids(pool, id, ask(1, tokens, 5));
    order.push(id);
  };
  const runs = [run("a", 30), run("b", 1)];
  await sleep(20);
  for (let i = 0; i < 4; i++) runs.push(run("a", 1));
  await Promise.all(runs);
  assert.deepEqual(order.slice(0, 2), ["a", "b"]);
});

test("what requests with one prompt share of the caches is reserved once, where the model shares it", async () => {
  // 64 bytes a position: room for 1,024, the context; each request takes 960, of which 896 are whole pages of its prompt.
  // So two of one prompt fill it to the last page, and one where nothing is shared.
  for (const [backend, fit] of [
    ["pages", 2],
    ["table", 1],
  ] as const) {
    const registry = new Registry();
    const pool = makePool({ backend, registry, maxCacheBytes: 64 });
    await ids(pool, "a", ask(1, 1));
    const gauge = async (name: string): Promise<number> =>
      (await registry.getSingleMetric(`cambium_serving_${name}`)!.get()).values[0]!.value;
    const controllers: AbortController[] = [];
    const outcomes: Promise<number[]>[] = [];
    const start = (first: number): void => {
      const controller = new AbortController();
      const promptIds = Array.from({ length: 900 }, (_, i) => first + (i % 7));
      controllers.push(controller);
      const outcome = ids(pool, "a", { ...ask(0, 20, 100), promptIds }, controller.signal);
      outcome.catch(() => undefined);
      outcomes.push(outcome);
    };
    for (const first of [1, 1, 1, 2, 1]) start(first);
    await sleep(50);
    assert.deepEqual([await gauge("active"), await gauge("queued")], [fit, 5 - fit], backend);
    // When the first goes, what it shared stays reserved for the others.
    controllers[0]!.abort();
    await sleep(20);
    assert.deepEqual([await gauge("active"), await gauge("queued")], [fit, 4 - fit], backend);
    for (const controller of controllers) controller.abort();
    assert.ok((await Promise.allSettled(outcomes)).every(({ status }) => status === "rejected"));
    assert.deepEqual(await ids(pool, "a", ask(6, 3)), expected(6, 3));
  }
});

test("an idle model is unloaded after its time", async () => {
  const pool = makePool({ idleTimeoutMs: 100 });
  await ids(pool, "a", ask(1, 1));
  await until(() => pool.warm().length === 0, "unloaded");
  assert.deepEqual(await ids(pool, "a", ask(1, 2)), expected(1, 2));
});

test("a dropped model finishes what runs on it and is gone", async () => {
  const pool = makePool();
  await ids(pool, "a", ask(1, 1));
  const running = ids(pool, "a", ask(1, 20, 10));
  await sleep(20);
  pool.drop(["a", "never seen"]);
  assert.deepEqual(pool.warm(), []);
  assert.deepEqual(await running, expected(1, 20));
  assert.deepEqual(await ids(pool, "a", ask(1, 2)), expected(1, 2), "registered again, it is loaded again");
});

test("leaving the loop cancels the request in the process", async () => {
  const pool = makePool({ maxActive: 1 });
  for await (const event of pool.generate(checkpoint("a"), ask(1, 10_000, 1), never)) if (event.type === "token") break;
  assert.deepEqual(await ids(pool, "a", ask(1, 2)), expected(1, 2));
});

test("30 clients of which some disconnect get the texts they would get alone", async () => {
  const pool = makePool({ maxActive: 4 });
  const outcomes = await Promise.allSettled(
    Array.from({ length: 30 }, (_, i) => {
      const controller = new AbortController();
      if (i % 3 === 0) setTimeout(() => controller.abort(), 5 * i);
      return ids(pool, "a", ask(i, 20, 1), controller.signal);
    }),
  );
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome.status === "fulfilled") assert.deepEqual(outcome.value, expected(i, 20));
    else assert.ok(i % 3 === 0 && coded("cancelled")(outcome.reason));
  }
});

test("closing turns everybody away, ends the processes and refuses what comes later", async () => {
  const pool = makePool({ maxActive: 1 });
  await ids(pool, "a", ask(1, 1));
  const runs = [ids(pool, "a", ask(1, 500, 10)), ids(pool, "a", ask(1, 1))];
  const outcomes = Promise.allSettled(runs);
  await sleep(30);
  await pool.close();
  assert.deepEqual(pool.warm(), []);
  for (const outcome of await outcomes)
    assert.ok(outcome.status === "rejected" && coded("unavailable")(outcome.reason));
  await assert.rejects(ids(pool, "a", ask(1, 1)), coded("unavailable"));
});
