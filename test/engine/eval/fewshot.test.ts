/**
 * Prompts, hashes and scores that lm_eval 0.4.13 itself gave: `harnessSamples.json` holds invented docs and what
 * the harness logged for them, run on its own task files with only the source of the docs replaced and a model
 * that answers each request with a hash of it. The digests below are of the same runs on the shared data.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { TaskData } from "../../../src/engine/backends/work.ts";
import { loadShots, shotDrawer } from "../../../src/engine/eval/fewshot.ts";
import { findTask, tasks } from "../../../src/engine/eval/index.ts";
import { readDocs } from "../../../src/engine/eval/readDocs.ts";
import type { SampleRecord } from "../../../src/engine/eval/sampleLog.ts";
import { makeSample } from "../../../src/engine/eval/sampleLog.ts";
import type { ScoringResult, Task, TaskDoc } from "../../../src/engine/eval/task.ts";
import { needsShared } from "../../helpers/shared.ts";
import { benchmarkFiles, benchmarks } from "./goldenTasks.ts";

interface LoggedSample {
  doc_id: number;
  target?: number | string;
  doc_hash: string;
  prompt_hash: string;
  target_hash: string;
  acc?: number;
  acc_norm?: number;
  /** (context, continuation) of each request; (text) for a rolling one. */
  arguments?: string[][];
  resps: ([number, boolean] | number)[];
}

interface LoggedTask {
  docs: unknown[];
  train: unknown[] | null;
  runs: { num_fewshot: number; samples: LoggedSample[] }[];
}

let folder = "";
let logged: Record<string, LoggedTask> = {};
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "cambium-fewshot-"));
  const text = await readFile(new URL("./harnessSamples.json", import.meta.url), "utf8");
  logged = (JSON.parse(text) as { tasks: Record<string, LoggedTask> }).tasks;
});
after(() => rm(folder, { recursive: true, force: true }));

function taskOf(name: string): Task {
  const task = findTask(name);
  assert.ok(task, name);
  return task;
}

async function file(name: string, docs: readonly unknown[]): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, docs.map((doc) => JSON.stringify(doc)).join("\n"));
  return path;
}

async function filesOf(name: string, { docs, train }: LoggedTask): Promise<TaskData> {
  const path = await file(`${name}.jsonl`, docs);
  return { task: name, path, ...(train ? { shotsPath: await file(`${name}.train.jsonl`, train) } : {}) };
}

async function prompts(
  data: TaskData,
  count: number,
): Promise<{ docs: readonly TaskDoc[]; hashes: readonly string[] }> {
  const task = taskOf(data.task);
  const read = await readDocs(task, data.path, null);
  const shots = await loadShots(task, data, count);
  return { docs: shots.prepend(read), hashes: read.hashes };
}

function argumentsOf(doc: TaskDoc): string[][] {
  return doc.requests.map((request) => {
    return request.kind === "rolling" ? [request.text] : [request.context, request.continuation];
  });
}

function answers({ resps }: LoggedSample): ScoringResult[] {
  return resps.map((resp) => {
    const [logLikelihood, isGreedy] = typeof resp === "number" ? [resp, false] : resp;
    return { logLikelihood, isGreedy };
  });
}

function sampleOf(task: Task, docs: readonly TaskDoc[], hashes: readonly string[], sample: LoggedSample): SampleRecord {
  const doc = docs[sample.doc_id];
  assert.ok(doc);
  return makeSample(task.name, sample.doc_id, hashes[sample.doc_id] ?? "", doc, task.metrics, answers(sample));
}

for (const task of tasks) {
  test(`${task.name}: requests, hashes and scores are the harness's, without examples and with them`, async () => {
    const golden = logged[task.name];
    assert.ok(golden, "every task has a golden");
    const data = await filesOf(task.name, golden);
    assert.ok(golden.runs.length >= 2);
    for (const { num_fewshot: count, samples } of golden.runs) {
      const { docs, hashes } = await prompts(data, count);
      assert.equal(docs.length, samples.length);
      for (const sample of samples) {
        const where = `doc ${sample.doc_id}, ${count} examples`;
        const doc = docs[sample.doc_id];
        assert.ok(doc);
        if (sample.arguments) assert.deepEqual(argumentsOf(doc), sample.arguments, where);
        const made = sampleOf(task, docs, hashes, sample);
        const { doc_hash, prompt_hash, target_hash, metrics } = made;
        const { doc_hash: docHash, prompt_hash: promptHash, target_hash: targetHash } = sample;
        assert.deepEqual([doc_hash, prompt_hash, target_hash], [docHash, promptHash, targetHash], where);
        assert.equal(metrics.acc, sample.acc, where);
        assert.equal(metrics.acc_norm, sample.acc_norm, where);
      }
    }
  });
}

/** Shots from these files, the evaluated ones where there is no other: what the digests were taken with. */
const shotFiles: Readonly<Record<string, string>> = {
  arc_easy: "arc_easy/validation.hf.jsonl",
  arc_challenge: "arc_challenge/validation.hf.jsonl",
  logiqa: "logiqa/validation.jsonl",
  piqa: "piqa/validation.jsonl",
  sciq: "sciq/validation.jsonl",
  winogrande: "winogrande/validation.jsonl",
};

/** SHA-256 of doc_hash + prompt_hash + target_hash of all docs, the harness's `task_hashes`: 0 and 5 examples. */
const taskHashes: Readonly<Record<string, readonly string[]>> = {
  arc_easy: [
    "eb697e84b85650ce799a77787170e1dd8cecd96fd24165e3b6f3043dc38de2a1",
    "1be45e967d555ce6b255975b07461b60db7112e89e89207e2cb6ee1876f00137",
  ],
  arc_challenge: [
    "c0330023cea2035f44429a3ad0a7b8ab663c99886f7d212dff092344f2d0337f",
    "e1b1e2b0edb592baa1e3c9c3df09f0b6be4ab2138a27f53d72a8f2738918e1e9",
  ],
  lambada_openai: [
    "35c949e9b587d74c4161028a77e63b13e17f1c1441e6441d236ee778ce6b0959",
    "5932fd81b936b17f196ac1d2695a64e356d880c65264bee9dfa400ebd86dc2bd",
  ],
  logiqa: [
    "a0ae2a1f444bf70f6afbeba2d8e2d0fd4043a70a77ffcaa5e6efa372dc443bb0",
    "c38ab578566cebdd88b688a578678a1491c41c4fb97f1491234062f64f759f26",
  ],
  sciq: [
    "4a652b6cfde6eb551848c18bb09a91eba45a216e4a3f2bcae7293d1495bf32a4",
    "bcbb35d14cb837c6210c5e5093c39d94602936985f3205e366b7bf2ceb07b4d2",
  ],
  piqa: [
    "74d5a816572c396ad46edbd386954abe5ddb3db2d7195088387d1d5c1b32fd8b",
    "7d5805f5bbbfb646aaae0693eb3b14950095f3e30184d8c56d11ce431593e04a",
  ],
  winogrande: [
    "a5ea73eb24ab46d111fe5d21eed85b1e779c0b309d80d080c3caa21a851b6feb",
    "7ce2d112e6d6e225115c10e066ef9f2fa1d73e6a9e68c49f7d2d6235702c5f30",
  ],
  wikitext: ["233109c41076287b5ba5a338ab7b085728acacf36d237a7ab99f34fcda161641"],
};

for (const [name, digests] of Object.entries(taskHashes)) {
  test(`${name}: all docs of the shared data have the harness's hashes`, needsShared(benchmarks), async () => {
    const root = benchmarks ?? "";
    const evaluated = name.startsWith("arc_") ? `${name}/test.hf.jsonl` : (benchmarkFiles[name] ?? "");
    const shots = shotFiles[name];
    const data = { task: name, path: join(root, evaluated), ...(shots ? { shotsPath: join(root, shots) } : {}) };
    for (const [i, expected] of digests.entries()) {
      const { docs, hashes } = await prompts(data, i === 0 ? 0 : 5);
      const all = createHash("sha256");
      docs.forEach((doc, at) => {
        const { doc_hash, prompt_hash, target_hash } = makeSample(name, at, hashes[at] ?? "", doc, [], []);
        all.update(doc_hash + prompt_hash + target_hash);
      });
      assert.equal(all.digest("hex"), expected, i === 0 ? "no examples" : "5 examples");
    }
  });
}

test("a task that takes no examples gets none and says so", async () => {
  const golden = logged["wikitext"];
  assert.ok(golden);
  const shots = await loadShots(taskOf("wikitext"), await filesOf("wikitext", golden), 5);
  assert.equal(shots.count, 0);
});

test("examples are on record: split and digest of the file they were drawn from", async () => {
  const golden = logged["sciq"];
  assert.ok(golden);
  const data = await filesOf("sciq", golden);
  const shots = await loadShots(taskOf("sciq"), data, 2);
  const digest = createHash("sha256")
    .update(await readFile(data.shotsPath ?? ""))
    .digest("hex");
  assert.deepEqual([shots.count, shots.split, shots.digest], [2, "train", digest]);
});

test("the evaluated doc is not among its own examples, however many copies there are", () => {
  const hashes = ["a", "b", "a", "c", "a"];
  const docs = hashes.map((hash): TaskDoc => {
    return { requests: [], target: "", gold: null, shot: () => hash, score: () => ({}) };
  });
  const draw = shotDrawer("piqa", { docs, hashes, excludesDoc: true }, 2);
  for (let i = 0; i < 50; i++) assert.match(draw("a"), /^(bc|cb)$/);
  const tooMany = shotDrawer("piqa", { docs, hashes, excludesDoc: true }, 3);
  assert.throws(() => tooMany("a"), /piqa: num_fewshot is 3, and the file has 2 docs that differ/);
});
