import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { findTask } from "../../../src/engine/eval/index.ts";
import { parseDocs } from "../../../src/engine/eval/readDocs.ts";
import type { SampleRecord } from "../../../src/engine/eval/sampleLog.ts";
import { createSampleLog, makeSample } from "../../../src/engine/eval/sampleLog.ts";
import type { ScoringResult } from "../../../src/engine/eval/task.ts";
import { needsShared } from "../../helpers/shared.ts";
import { benchmarks, harnessSamples, readBenchmark, readWikitextGolden } from "./goldenTasks.ts";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "cambium-samples-"));
});
after(() => rm(folder, { recursive: true, force: true }));

function sample(taskName: string, doc: unknown, results: readonly ScoringResult[]): SampleRecord {
  const task = findTask(taskName);
  assert.ok(task);
  const { docs, hashes } = parseDocs(task, JSON.stringify(doc), null);
  const [first] = docs;
  assert.ok(first);
  return makeSample(task.name, 0, hashes[0] ?? "", first, task.metrics, results);
}

function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

test("a record has what the harness logs: hashes, likelihoods, greedy flags, gold and metrics", () => {
  const doc = { goal: "G", sol1: "one", sol2: "two three", label: 1 };
  const made = sample("piqa", doc, [
    { logLikelihood: -2, isGreedy: true },
    { logLikelihood: -3, isGreedy: false },
  ]);
  assert.deepEqual(made, {
    task: "piqa",
    doc_id: 0,
    doc_hash: sha256('{\n  "goal": "G",\n  "sol1": "one",\n  "sol2": "two three",\n  "label": 1\n}'),
    prompt_hash: sha256("Question: G\nAnswer:"),
    target_hash: sha256("1"),
    gold: 1,
    correct: false,
    log_likelihoods: [-2, -3],
    is_greedy: [true, false],
    metrics: { acc: 0, acc_norm: 1 },
  });
});

test("tasks without choices have no gold, those without accuracy are neither right nor wrong", () => {
  const lambada = sample("lambada_openai", { text: "a b" }, [{ logLikelihood: -1, isGreedy: true }]);
  assert.deepEqual([lambada.gold, lambada.correct, lambada.metrics], [null, true, { perplexity: -1, acc: 1 }]);
  const wikitext = sample("wikitext", { page: "a b" }, [{ logLikelihood: -4, isGreedy: true }]);
  const metrics = { word_perplexity: [-4, 2], byte_perplexity: [-4, 3], bits_per_byte: [-4, 3] };
  assert.deepEqual([wikitext.gold, wikitext.correct, wikitext.metrics], [null, null, metrics]);
  assert.deepEqual(wikitext.is_greedy, [false]);
});

test("a model that has diverged leaves a log that is JSON", () => {
  const results = [
    { logLikelihood: Number.NaN, isGreedy: false },
    { logLikelihood: -Infinity, isGreedy: false },
  ];
  const made = sample("piqa", { goal: "G", sol1: "a", sol2: "b", label: 0 }, results);
  assert.deepEqual((JSON.parse(JSON.stringify(made)) as SampleRecord).log_likelihoods, ["NaN", "-Infinity"]);
});

test("wikitext's pages have the harness's hashes and counts", needsShared(benchmarks, harnessSamples), () => {
  const task = findTask("wikitext");
  assert.ok(task);
  const { docs, hashes } = parseDocs(task, readBenchmark("wikitext/test.pages.jsonl"), 5);
  for (const [i, golden] of readWikitextGolden("no-bos").samples.entries()) {
    const doc = docs[i];
    assert.ok(doc);
    const results = [{ logLikelihood: golden.ll, isGreedy: false }];
    const made = makeSample("wikitext", i, hashes[i] ?? "", doc, task.metrics, results);
    assert.equal(made.doc_hash, golden.doc_hash);
    assert.equal(made.prompt_hash, golden.prompt_hash);
    assert.equal(made.target_hash, golden.target_hash);
    assert.deepEqual(made.metrics.word_perplexity, [golden.ll, golden.words]);
  }
});

test("a log longer than its buffer becomes one blob under its digest, a line a sample", async () => {
  const made = sample("piqa", { goal: "G", sol1: "a", sol2: "b", label: 0 }, []);
  const log = await createSampleLog(folder);
  for (let i = 0; i < 2000; i++) await log.add({ ...made, doc_id: i });
  const { blob, numSamples } = await log.finish();
  await log.abort();
  const bytes = await readFile(blobPath(folder, blob.digest));
  assert.deepEqual([numSamples, bytes.length, sha256(bytes)], [2000, blob.sizeBytes, blob.digest]);
  const lines = bytes.toString("utf8").trimEnd().split("\n");
  assert.deepEqual(
    lines.map((line) => (JSON.parse(line) as SampleRecord).doc_id),
    lines.map((_, i) => i),
  );
});

test("a log that is dropped leaves nothing behind", async () => {
  const log = await createSampleLog(folder);
  await log.add(sample("piqa", { goal: "G", sol1: "a", sol2: "b", label: 0 }, []));
  await log.abort();
  assert.deepEqual(await readdir(join(folder, "tmp")), []);
});
