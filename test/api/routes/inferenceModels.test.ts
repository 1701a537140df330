/**
 * Several checkpoints warm at once, over HTTP: as many as the memory budget holds, the one used longest ago goes, a
 * cold start is seen in /metrics, and the text of a model does not depend on its being warm.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { metric, stream } from "../../../bench/lib/inferenceLoad.ts";
import { estimateFootprint } from "../../../src/engine/serving/footprint.ts";
import { defaultPoolLimits } from "../../../src/engine/serving/pool.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const names = ["a", "b", "c"].map((name) => `ckpt_${name}`);
const tiny = names.map((id, i) => tinyCheckpoint({ id, seed: i + 1, bytes: false, config: { eosTokenIds: [] } }));
const { bytes } = estimateFootprint(tiny[0]!.checkpoint.manifest, defaultPoolLimits, true);
/** Room for two and a half. */
const maxMemoryBytes = Math.floor(2.5 * bytes);
let server: InferenceServer;

before(async () => {
  const checkpoints = tiny.map(({ checkpoint }) => checkpoint);
  server = await startInferenceServer(checkpoints, { limits: { maxMemoryBytes, maxModels: 3 } });
});
after(async () => {
  await server.close();
  for (const { remove } of tiny) remove();
});

const textOf = async (model: string): Promise<string> =>
  (await stream(server.url, { model, prompt: [1, 2, 3], max_tokens: 8, temperature: 1, seed: 4 })).text;

test("models share a memory budget: the one used longest ago goes, and comes back with the same text", async () => {
  const texts = new Map<string, string>();
  const use = async (model: string, coldStarts: number, warm: readonly string[]): Promise<void> => {
    const text = await textOf(model);
    assert.equal(text, texts.get(model) ?? text);
    texts.set(model, text);
    assert.equal(await metric(server.url, "cambium_serving_cold_start_seconds_count"), coldStarts, model);
    assert.deepEqual([...server.pool.warm()].sort(), warm);
    const held = await metric(server.url, "cambium_serving_memory_bytes");
    assert.ok(held > 0 && held <= maxMemoryBytes, `${held} bytes of ${maxMemoryBytes}`);
    assert.equal(await metric(server.url, "cambium_serving_processes"), warm.length);
  };
  const [a, b, c] = names as [string, string, string];
  await use(a, 1, [a]);
  await use(b, 2, [a, b]);
  await use(a, 2, [a, b]);
  await use(c, 3, [a, c]);
  await use(a, 3, [a, c]);
  await use(b, 4, [a, b]);
  assert.equal(new Set(texts.values()).size, 3);
  const slowest = await metric(server.url, "cambium_serving_cold_start_seconds_sum");
  assert.ok(slowest > 0);
});

test("a model that could never fit is refused by its size, and those that are warm stay", async () => {
  const huge = tinyCheckpoint({ id: "ckpt_huge", bytes: false, config: { maxPositionEmbeddings: 4_000_000 } });
  server.checkpoints.set("ckpt_huge", huge.checkpoint);
  const warm = [...server.pool.warm()].sort();
  const body = JSON.stringify({ model: "ckpt_huge", prompt: [1], max_tokens: 1 });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`${server.url}/v1/completions`, { method: "POST", headers, body });
  const problem = (await response.json()) as { code: string; detail: string };
  assert.equal(problem.code, "model_too_large");
  assert.match(problem.detail, /ckpt_huge takes about \d+ bytes; models may take \d+/);
  assert.deepEqual([...server.pool.warm()].sort(), warm);
  server.checkpoints.delete("ckpt_huge");
  huge.remove();
});
