/** The pool over real model processes: a random tiny checkpoint, and stories260K where the shared data is. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { createModelPool } from "../../../src/engine/serving/pool.ts";
import type { ModelPool } from "../../../src/engine/serving/types.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { modelProcesses } from "../../helpers/modelProcesses.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const never = new AbortController().signal;
const tiny = tinyCheckpoint();
const pool = createModelPool({ backends: ["wasm", "cpu"] });
after(async () => {
  await pool.close();
  tiny.remove();
});

async function ids(
  from: ModelPool,
  checkpoint: ResolvedCheckpoint,
  change: Partial<GenerateRequest>,
  signal = never,
): Promise<number[]> {
  const request: GenerateRequest = {
    promptIds: [256, 72, 105],
    maxTokens: 20,
    temperature: 1,
    topP: 0.95,
    seed: 1,
    stopIds: [],
    logprobs: null,
    echo: false,
    ...change,
  };
  const out: number[] = [];
  for await (const event of from.generate(checkpoint, request, signal)) if (event.type === "token") out.push(event.id);
  return out;
}

test("30 clients at once, some of whom leave, get the texts that each gets alone", async () => {
  const expected: number[][] = [];
  for (let seed = 0; seed < 30; seed++) expected.push(await ids(pool, tiny.checkpoint, { seed, maxTokens: 12 }));
  assert.ok(new Set(expected.map(String)).size > 20);
  const outcomes = await Promise.allSettled(
    expected.map((_, seed) => {
      const controller = new AbortController();
      if (seed % 4 === 0) setTimeout(() => controller.abort(), 3 * seed);
      return ids(pool, tiny.checkpoint, { seed, maxTokens: 12 }, controller.signal);
    }),
  );
  for (const [seed, outcome] of outcomes.entries()) {
    if (outcome.status === "fulfilled") assert.deepEqual(outcome.value, expected[seed]);
    else assert.ok(seed % 4 === 0 && outcome.reason instanceof CodedError && outcome.reason.code === "cancelled");
  }
});

test(
  "a process killed with -9 in mid-generation fails its request, and the next one is served",
  { skip: process.platform !== "linux" },
  async () => {
    const endless = tinyCheckpoint({ id: "ckpt_endless", config: { maxPositionEmbeddings: 20_000, eosTokenIds: [] } });
    const killed = createModelPool({ backends: ["wasm", "cpu"] });
    const others = modelProcesses(process.pid);
    const before = await ids(killed, endless.checkpoint, { seed: 5 });
    const [pid] = modelProcesses(process.pid).filter((other) => !others.includes(other));
    assert.ok(pid !== undefined);
    const stream = killed.generate(
      endless.checkpoint,
      {
        promptIds: [256],
        maxTokens: 15_000,
        temperature: 1,
        topP: 1,
        seed: 2,
        stopIds: [],
        logprobs: null,
        echo: false,
      },
      never,
    );
    const run = (async () => {
      for await (const event of stream) if (event.type === "token") process.kill(pid, "SIGKILL");
    })();
    await assert.rejects(run, (error) => error instanceof CodedError && error.code === "compute_crashed");
    assert.deepEqual(await ids(killed, endless.checkpoint, { seed: 5 }), before);
    assert.ok(!modelProcesses(process.pid).includes(pid));
    await killed.close();
    endless.remove();
  },
);

test(
  "a model process ends when the server is killed, even in mid-generation",
  { skip: process.platform !== "linux" },
  async () => {
    const parent = spawn(process.execPath, [fileURLToPath(new URL("./poolParent.ts", import.meta.url))], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [line] = (await once(parent.stdout.setEncoding("utf8"), "data")) as [string];
    const pid = Number(line);
    assert.ok(pid > 0 && existsSync(`/proc/${pid}`));
    parent.kill("SIGKILL");
    for (let i = 0; i < 100 && existsSync(`/proc/${pid}`); i++) await sleep(100);
    assert.ok(!existsSync(`/proc/${pid}`), "gone within 10 s");
  },
);

test("a checkpoint whose weights are gone names the reason", async () => {
  const other = tinyCheckpoint({ id: "ckpt_gone" });
  other.remove();
  const run = ids(pool, other.checkpoint, {});
  await assert.rejects(run, (error) => error instanceof CodedError && error.code === "checkpoint_corrupt");
});

const stories = sharedData("checkpoints", "stories260K");
const story = sharedData("golden", "llama2c", "stories260K.expected.txt");
test("stories260K tells the story that llama2.c publishes", needsShared(stories, story), async () => {
  const tokenizer = loadTokenizer({ tokenizerJson: readFileSync(`${stories!}/tokenizer.json`) });
  const made = await ids(pool, resolveFolder(stories!), { promptIds: [1], maxTokens: 200, temperature: 0 });
  assert.equal(tokenizer.decode(made, { skipSpecialTokens: true }).trim(), readFileSync(story!, "utf8").trim());
});
