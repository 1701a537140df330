/**
 * Many clients at once over HTTP on one small model: a third of 200 hang up in between, the line is bounded and turns
 * the rest away, every text is the one that a quiet server gives, memory stays where it is, and afterwards nothing is
 * left over. How the line works, step by step, is in `inferenceLine.test.ts`. Killing the model's process fails what
 * runs in it and nothing else. A minute of it is `bench/serve.ts --crowd 60`.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { crowd, metric, stream } from "../../../bench/lib/inferenceLoad.ts";
import type { Ask } from "../../../bench/lib/inferenceLoad.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";
import { modelProcesses } from "../../helpers/modelProcesses.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const maxQueued = 8;
const seconds = 4;
const tiny = tinyCheckpoint({
  id: "ckpt_crowd",
  bytes: false,
  config: { eosTokenIds: [], maxPositionEmbeddings: 4096 },
});
const asks = Array.from({ length: 30 }, (_, i): Ask => {
  const prompt = Array.from({ length: 1 + ((i * 7) % 50) }, (__, t) => (i * 31 + t * 17) % 256);
  return { model: "ckpt_crowd", prompt, max_tokens: 4 + (i % 21), temperature: i % 2, seed: i };
});
const linux = { skip: process.platform !== "linux" };
let server: InferenceServer;

before(async () => {
  server = await startInferenceServer([tiny.checkpoint], { limits: { maxQueued, maxActive: 6 } });
});
after(async () => {
  await server.close();
  tiny.remove();
});

function rssBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
}

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Bytes of JavaScript objects and buffers in this process, which is server and clients. */
function heldBytes(): number {
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Waits for what clients that left have given up to be noticed. */
async function quiet(): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if ((await metric(server.url, "cambium_serving_active")) === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail("requests still hold places 5 s after the last client");
}

test("200 clients of which a third hang up: right texts, a bounded line, nothing left over", linux, async (t) => {
  const expected: string[] = [];
  for (const ask of asks) expected.push((await stream(server.url, ask)).text);
  assert.ok(new Set(expected).size > 20);
  const load = (duration: number, seed: number) =>
    crowd(server.url, asks, expected, { clients: 200, seconds: duration, seed });
  await load(1, 1);
  await quiet();
  const [pid] = modelProcesses(process.pid);
  const warm = { model: rssBytes(pid!), server: heldBytes() };
  let mostQueued = 0;
  const watch = setInterval(() => {
    void metric(server.url, "cambium_serving_queued").then((queued) => (mostQueued = Math.max(mostQueued, queued)));
  }, 100);
  const result = await load(seconds, 2);
  clearInterval(watch);
  await quiet();
  assert.deepEqual(result.failures, []);
  assert.equal(result.wrong, 0);
  assert.ok(result.completed > 30 && result.left > 20, JSON.stringify(result));
  assert.ok(mostQueued <= maxQueued, `${mostQueued} in the line`);
  assert.equal(await metric(server.url, "cambium_serving_queued"), 0);
  assert.deepEqual(modelProcesses(process.pid), [pid], "one process all along");
  const grown = { model: rssBytes(pid!) - warm.model, server: heldBytes() - warm.server };
  assert.ok(grown.model < 48 * 2 ** 20, `the model's process grew by ${grown.model} bytes`);
  assert.ok(grown.server < 16 * 2 ** 20, `the server's heap grew by ${grown.server} bytes`);
  t.diagnostic(JSON.stringify({ ...result, completedBy: undefined, mostQueued, grown }));
  // As many as ever run at once: no place was lost.
  const again = await Promise.all(asks.slice(0, 12).map((ask) => stream(server.url, ask)));
  assert.deepEqual(
    again.map(({ text }) => text),
    expected.slice(0, 12),
  );
});

test(
  "killing the model's process fails what runs in it with a clear error, and the next request is served",
  linux,
  async () => {
    const expected = (await stream(server.url, asks[3]!)).text;
    const [pid] = modelProcesses(process.pid);
    const long = { ...asks[0]!, max_tokens: 4000 };
    const running = [1, 2].map((seed) => stream(server.url, { ...long, seed }));
    const outcomes = Promise.allSettled(running);
    const early = Promise.all(running);
    early.catch(() => undefined);
    for (let i = 0; (await metric(server.url, "cambium_serving_active")) < 1; i++) {
      assert.ok(i < 500, "the requests are not running after 5 s");
      await new Promise((done) => setTimeout(done, 10));
    }
    process.kill(pid!, "SIGKILL");
    for (const outcome of await outcomes) {
      assert.equal(outcome.status, "rejected");
      assert.match(String((outcome as PromiseRejectedResult).reason), /ckpt_crowd ended \(SIGKILL\)|status 500/);
    }
    assert.equal((await stream(server.url, asks[3]!)).text, expected);
    assert.notDeepEqual(modelProcesses(process.pid), [pid]);
    assert.equal(await metric(server.url, "cambium_serving_failures_total"), 1);
  },
);

test("metrics tell of tokens, batches, queue and cold starts as histograms", async () => {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  for (const name of [
    ...["first_token_seconds", "token_interval_seconds", "tokens_per_second", "queue_depth", "queue_seconds"],
    ...["batch_sequences", "step_seconds", "cold_start_seconds"],
  ]) {
    const count = Number(new RegExp(`^cambium_serving_${name}_count (.+)$`, "m").exec(text)?.[1]);
    assert.ok(count > 0, name);
  }
  const [sum, count] = ["sum", "count"].map((part) =>
    Number(new RegExp(`^cambium_serving_batch_sequences_${part} (.+)$`, "m").exec(text)?.[1]),
  ) as [number, number];
  assert.ok(sum / count > 1, `${sum / count} sequences in a step on average`);
  assert.ok((await metric(server.url, "cambium_serving_memory_bytes")) > 0);
});
