/**
 * The bounded line over HTTP, step by step instead of by luck: requests that last hold the places, others wait behind
 * them, more are told 429 with Retry-After; who hangs up, running or waiting, frees what was held; those that wait are
 * served in the order in which they came. What a crowd makes of it is in `inferenceCrowd.test.ts`.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { RateLimitError } from "openai";
import { metric, stream } from "../../../bench/lib/inferenceLoad.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const maxActive = 3;
const maxQueued = 5;
const tiny = tinyCheckpoint({
  id: "ckpt_line",
  bytes: false,
  config: { eosTokenIds: [], maxPositionEmbeddings: 50_000 },
});
let server: InferenceServer;

before(async () => {
  server = await startInferenceServer([tiny.checkpoint], { limits: { maxQueued, maxActive } });
});
after(async () => {
  await server.close();
  tiny.remove();
});

const ask = (seed: number, max_tokens: number) => {
  return { model: "ckpt_line", prompt: [seed, 1, 2], max_tokens, temperature: 1, seed };
};
const short = (seed: number) => stream(server.url, ask(seed, 3));

interface Held {
  hangUp(): void;
  readonly ended: Promise<unknown>;
}

const post = (body: object, signal?: AbortSignal): Promise<Response> => {
  const init = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return fetch(`${server.url}/v1/completions`, { ...init, ...(signal ? { signal } : {}) });
};

/** A request that lasts until its client leaves. */
function hold(seed: number): Held {
  const controller = new AbortController();
  const ended = post(ask(seed, 49_000), controller.signal).catch(() => undefined);
  return { hangUp: () => controller.abort(), ended };
}

async function until(name: "queued" | "active", wanted: number): Promise<void> {
  for (let i = 0; ; i++) {
    const found = await metric(server.url, `cambium_serving_${name}`);
    if (found === wanted) return;
    assert.ok(i < 500, `${found} ${name} after 5 s; wanted ${wanted}`);
    await sleep(10);
  }
}

/** Takes all places. */
async function holdAll(): Promise<Held[]> {
  const held = Array.from({ length: maxActive }, (_, i) => hold(i));
  await until("active", maxActive);
  return held;
}

async function letGo(held: readonly Held[]): Promise<void> {
  for (const { hangUp } of held) hangUp();
  await Promise.all(held.map(({ ended }) => ended));
  await until("queued", 0);
  await until("active", 0);
}

test("a full line answers 429 with Retry-After and a problem, and whoever hangs up frees place or line", async () => {
  const expected = (await short(7)).text;
  const running = await holdAll();
  const waiting = Array.from({ length: maxQueued }, (_, i) => hold(10 + i));
  await until("queued", maxQueued);
  const refusals = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const response = await post(ask(i, 3));
      return { response, body: (await response.json()) as { code: string; error: { code: string } } };
    }),
  );
  for (const { response, body } of refusals) {
    assert.equal(response.status, 429);
    assert.match(response.headers.get("retry-after") ?? "", /^[1-9][0-9]*$/);
    assert.match(response.headers.get("content-type") ?? "", /^application\/problem\+json/);
    assert.deepEqual([body.code, body.error.code], ["too_many_requests", "too_many_requests"]);
  }
  assert.equal(await metric(server.url, "cambium_serving_queued"), maxQueued, "the line grew beyond its bound");

  // One that waits leaves: one more may wait, the next not.
  waiting[4]!.hangUp();
  await until("queued", maxQueued - 1);
  waiting.push(hold(20));
  await until("queued", maxQueued);
  await assert.rejects(short(1), /status 429/);
  // One that runs leaves: the first of the line takes its place.
  running[0]!.hangUp();
  await until("queued", maxQueued - 1);
  await until("active", maxActive);
  await letGo([...running, ...waiting]);
  assert.equal((await short(7)).text, expected);
});

test("those that wait are served in the order in which they came", async () => {
  const held = await holdAll();
  const order: number[] = [];
  const runs: Promise<unknown>[] = [];
  for (let i = 0; i < maxQueued; i++) {
    runs.push(short(i).then(() => order.push(i)));
    await until("queued", i + 1);
  }
  held[0]!.hangUp();
  await Promise.all(runs);
  assert.deepEqual(order, [0, 1, 2, 3, 4]);
  await letGo(held);
});

test("a request of many choices does not fill the line for others, and gets its own when they had theirs", async () => {
  const held = await holdAll();
  const many = post({ ...ask(3, 5), n: 16 });
  await until("queued", 1);
  const others = Array.from({ length: maxQueued - 1 }, (_, i) => short(i));
  await until("queued", maxQueued);
  await assert.rejects(short(9), /status 429/);
  await letGo(held);
  for (const { tokens } of await Promise.all(others)) assert.equal(tokens, 3);
  const answer = (await (await many).json()) as { choices: { index: number }[]; usage: { completion_tokens: number } };
  assert.deepEqual(
    answer.choices.map(({ index }) => index),
    Array.from({ length: 16 }, (_, i) => i),
  );
  assert.equal(answer.usage.completion_tokens, 16 * 5);
});

test("OpenAI's client is told of the full line as RateLimitError, and one that tries again gets its answer", async () => {
  const held = await holdAll();
  const waiting = Array.from({ length: maxQueued }, (_, i) => hold(10 + i));
  await until("queued", maxQueued);
  const create = (maxRetries: number) =>
    new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries }).completions.create(ask(9, 3));
  await assert.rejects(create(0), (error) => {
    assert.ok(error instanceof RateLimitError && error.status === 429, String(error));
    assert.match(error.message, /requests wait already/);
    return true;
  });
  const patient = create(5);
  await sleep(50);
  await letGo([...held, ...waiting]);
  assert.equal((await patient).usage?.completion_tokens, 3);
});
