import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { EvaluateResult, EvaluateWork, TaskData } from "../../../src/engine/backends/work.ts";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { evaluate } from "../../../src/engine/eval/evaluate.ts";
import type { SampleRecord } from "../../../src/engine/eval/sampleLog.ts";
import type { ScoreRequest, ScoreResult, ServedModel } from "../../../src/engine/infer/servedModel.ts";
import { createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { WorkEvent } from "../../../src/ops/events.ts";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "cambium-eval-"));
});
after(() => rm(folder, { recursive: true, force: true }));

async function taskFile(task: string, docs: readonly unknown[]): Promise<TaskData> {
  const path = join(folder, `${task}-${docs.length}.jsonl`);
  await writeFile(path, docs.map((doc) => JSON.stringify(doc)).join("\n"));
  return { task, path };
}

/** A stand-in for a model: the score is a hash of the ids, so a mix-up of results cannot go unseen. */
function scoreOf({ ids, start }: ScoreRequest): ScoreResult {
  const digest = createHash("sha256")
    .update(JSON.stringify([ids, start]))
    .digest();
  return { logLikelihood: -digest.readUInt32BE(0) / 2 ** 28, isGreedy: (digest[4] ?? 0) % 2 === 0 };
}

function fakeModel(calls: (readonly ScoreRequest[])[] = [], onCall: () => void = () => undefined): ServedModel {
  return {
    maxLength: 200,
    vocabSize: 258,
    memoryBytes: 0,
    sharesPages: false,
    generate: () => assert.fail("nothing is generated"),
    score(requests) {
      calls.push(requests);
      onCall();
      return Promise.resolve(requests.map(scoreOf));
    },
    close: () => undefined,
  };
}

function workOf(tasks: readonly TaskData[], more: Partial<EvaluateWork> = {}): EvaluateWork {
  const checkpoint = {} as EvaluateWork["checkpoint"];
  return { checkpoint, tasks, limit: null, bos: "none", maxLength: null, bootstrapIterations: 100, ...more };
}

async function run(
  work: EvaluateWork,
  model = fakeModel(),
  signal = new AbortController().signal,
): Promise<WorkEvent[]> {
  const events: WorkEvent[] = [];
  for await (const event of evaluate(work, model, createBytesTokenizer(), signal)) events.push(event);
  return events;
}

function resultOf(events: readonly WorkEvent[]): EvaluateResult {
  const last = events.at(-1);
  assert.ok(last?.type === "result");
  return last.result as EvaluateResult;
}

const arcDocs = Array.from({ length: 40 }, (_, i) => ({
  question: `Question ${"long ".repeat(i % 11)}${i}?`,
  choices: ["yes", `no ${i}`, "maybe"],
  gold: i % 3,
}));

test("scores find their way back to their docs, though the longest are scored first", async () => {
  const calls: (readonly ScoreRequest[])[] = [];
  const result = resultOf(await run(workOf([await taskFile("arc_easy", arcDocs)]), fakeModel(calls)));
  const asked = calls.flat();
  assert.equal(asked.length, 120);
  const contexts = asked.map(({ ids, start }) => JSON.stringify(ids.slice(0, start)));
  const longest = asked.filter((_, i) => i % 3 === 0).map(({ ids }) => ids.length);
  assert.deepEqual(
    longest,
    [...longest].sort((a, b) => b - a),
    "the doc with the longest request first",
  );
  for (let i = 0; i < contexts.length; i += 3) {
    assert.deepEqual(new Set(contexts.slice(i, i + 3)).size, 1, "the choices of a doc share their context");
  }
  const encode = (text: string): number[] => createBytesTokenizer().encode(text, { addSpecialTokens: false });
  const right = arcDocs.filter(({ question, choices, gold }) => {
    const context = encode(`Question: ${question}\nAnswer:`);
    const scores = choices.map((choice) => {
      return scoreOf({ ids: [...context, ...encode(` ${choice}`)], start: context.length }).logLikelihood;
    });
    return scores.indexOf(Math.max(...scores)) === gold;
  });
  assert.equal(result.results[0]?.metrics["acc,none"], right.length / 40);
  assert.ok(right.length > 0 && right.length < 40);
});

test("a result says what was measured, on which file and how", async () => {
  const data = await taskFile("lambada_openai", [{ text: "one two" }, { text: "three four five" }]);
  const settings = { bos: "tokenizer", maxLength: 100, backend: "wasm", kernels: "wasm-simd128" } as const;
  const origin = { type: "upload", file: "l.jsonl" };
  const [result] = resultOf(await run(workOf([{ ...data, origin }], settings))).results;
  assert.ok(result);
  assert.equal(result.task, "lambada_openai");
  assert.equal(result.version, "1.0");
  assert.equal(result.numDocs, 2);
  assert.deepEqual(Object.keys(result.metrics), [
    "perplexity,none",
    "perplexity_stderr,none",
    "acc,none",
    "acc_stderr,none",
  ]);
  assert.deepEqual(result.higherIsBetter, { perplexity: false, acc: true });
  const content = '{"text":"one two"}\n{"text":"three four five"}';
  assert.equal(result.datasetDigest, createHash("sha256").update(content).digest("hex"));
  assert.equal(result.settings["bos"], "tokenizer");
  assert.equal(result.settings["max_length"], 100);
  assert.deepEqual(result.settings, {
    ...{ name: "lambada_openai", sample_len: 2 },
    ...{ harness: "lm_eval 0.4.13", harness_commit: "4e7e0d47f", task_version: "1.0" },
    ...{ num_fewshot: 0, fewshot_split: null, fewshot_digest: null, seed: 1234 },
    ...{ bos: "tokenizer", profile: "tokenizer-default", max_length: 100, limit: null, docs_in_file: 2 },
    ...{ bootstrap_iterations: 100, dtype: "float32", backend: "wasm", kernels: "wasm-simd128" },
    data: { type: "upload", file: "l.jsonl" },
  });
  assert.deepEqual(JSON.parse(JSON.stringify(result)), result, "plain JSON");
});

test("the windows of a long page add up", async () => {
  const page = " word word . ".repeat(60);
  const calls: (readonly ScoreRequest[])[] = [];
  const work = workOf([await taskFile("wikitext", [{ page }])], { maxLength: 64 });
  const [result] = resultOf(await run(work, fakeModel(calls))).results;
  const scored = calls.flat();
  assert.ok(scored.length > 5 && scored.every(({ ids }) => ids.length <= 65));
  const inOrder = scored.map(scoreOf).map(({ logLikelihood }) => logLikelihood);
  const total = inOrder.reduce((sum, value) => sum + value, 0);
  const words = page.split(/\s+/).length;
  const expected = Math.exp(-total / words);
  assert.ok(Math.abs(Number(result?.metrics["word_perplexity,none"]) / expected - 1) < 1e-12);
  assert.equal(result?.metrics["word_perplexity_stderr,none"], "N/A");
});

test("several tasks are evaluated one after the other, with progress from 0 to 1 and an estimate", async () => {
  const work = workOf([
    await taskFile("arc_easy", arcDocs),
    await taskFile("lambada_openai", [{ text: "a b" }, { text: "c d" }]),
  ]);
  const events = await run(work);
  assert.deepEqual(
    resultOf(events).results.map(({ task }) => task),
    ["arc_easy", "lambada_openai"],
  );
  const progress = events.filter((event) => event.type === "progress");
  const fractions = progress.map(({ fraction }) => fraction);
  assert.equal(fractions[0], 0);
  assert.deepEqual(
    fractions,
    [...fractions].sort((a, b) => a - b),
  );
  assert.equal(fractions.at(-1), 1);
  assert.ok(progress.some(({ etaSeconds }) => typeof etaSeconds === "number" && etaSeconds >= 0));
});

test("an abort ends with `stopped` and asks the model nothing more", async () => {
  const controller = new AbortController();
  const calls: (readonly ScoreRequest[])[] = [];
  const long = arcDocs.map((doc) => ({ ...doc, question: "x".repeat(150) }));
  const model = fakeModel(calls, () => controller.abort());
  const events = await run(workOf([await taskFile("arc_easy", long)]), model, controller.signal);
  assert.equal(events.at(-1)?.type, "stopped");
  assert.equal(calls.length, 1);
  const early = new AbortController();
  early.abort();
  const none = await run(workOf([await taskFile("arc_easy", long)]), fakeModel(calls), early.signal);
  assert.deepEqual(none, [{ type: "stopped" }]);
});

/** The sample log of a result, and its path. */
async function samplesOf(event: WorkEvent | undefined): Promise<SampleRecord[]> {
  assert.ok(event?.type === "result");
  const [result] = (event.result as EvaluateResult).results;
  assert.deepEqual(event.blobs, [result?.samples?.blob]);
  const text = await readFile(blobPath(folder, result?.samples?.blob.digest ?? ""), "utf8");
  const samples = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as SampleRecord);
  assert.equal(samples.length, result?.samples?.numSamples);
  return samples;
}

test("the log has every doc in order, and its scores are those of the metrics", async () => {
  const work = workOf([await taskFile("arc_easy", arcDocs)], { blobDir: folder });
  const events = await run(work);
  const samples = await samplesOf(events.at(-1));
  assert.deepEqual(
    samples.map(({ doc_id }) => doc_id),
    arcDocs.map((_, i) => i),
  );
  assert.deepEqual(
    samples.map(({ gold }) => gold),
    arcDocs.map(({ gold }) => gold),
  );
  const right = samples.filter(({ correct }) => correct === true).length;
  assert.equal(right / 40, resultOf(events).results[0]?.metrics["acc,none"]);
  assert.ok(samples.every(({ log_likelihoods, is_greedy }) => log_likelihoods.length === 3 && is_greedy.length === 3));
});

test("more docs than one run takes give the same scores as in parts", async () => {
  const many = Array.from({ length: 4000 }, (_, i) => ({
    goal: "long ".repeat(30),
    sol1: `${i}`,
    sol2: `not ${i}`,
    label: i % 2,
  }));
  const many2 = many.flatMap((doc) => [doc, { ...doc, goal: `${doc.goal}.` }]);
  const work = workOf([await taskFile("piqa", many2)], { blobDir: folder, maxLength: 200 });
  const samples = await samplesOf((await run(work)).at(-1));
  const part = workOf([await taskFile("piqa", many2.slice(7000))], { blobDir: folder, maxLength: 200 });
  const last = await samplesOf((await run(part)).at(-1));
  assert.deepEqual(
    samples.slice(7000).map(({ log_likelihoods }) => log_likelihoods),
    last.map((one) => one.log_likelihoods),
  );
});

test("an attempt goes on from what earlier ones have kept, and ends with the same bits", async () => {
  const data = await taskFile("arc_easy", arcDocs);
  const whole = await run(workOf([data], { blobDir: folder }));
  const controller = new AbortController();
  let calls = 0;
  const stopping = fakeModel([], () => {
    calls += 1;
    if (calls === 3) controller.abort();
  });
  const first = await run(workOf([data], { blobDir: folder }), stopping, controller.signal);
  const parts = first.flatMap((event) => (event.type === "part" ? [event.data] : []));
  const kept = parts.flatMap((part) => part["docs"] as number[]);
  assert.equal(first.at(-1)?.type, "stopped");
  assert.ok(kept.length > 0 && kept.length < arcDocs.length);
  const asked: (readonly ScoreRequest[])[] = [];
  const done = JSON.parse(JSON.stringify(parts)) as typeof parts;
  const second = await run(workOf([data], { blobDir: folder, done }), fakeModel(asked));
  assert.equal(asked.flat().length, 3 * (arcDocs.length - kept.length), "nothing is asked twice");
  assert.deepEqual(resultOf(second), resultOf(whole));
  const stale = done.map((part) => ({ ...part, dataset_digest: "0".repeat(64) }));
  const again: (readonly ScoreRequest[])[] = [];
  await run(workOf([data], { done: stale }), fakeModel(again));
  assert.equal(again.flat().length, 3 * arcDocs.length, "what was measured on other data does not count");
});

test("another seed draws other examples, the same seed the same", async () => {
  const shots = await taskFile("arc_easy", arcDocs);
  const data = { ...(await taskFile("arc_easy", arcDocs.slice(0, 3))), shotsPath: shots.path };
  const asked = async (seed?: number): Promise<string> => {
    const calls: (readonly ScoreRequest[])[] = [];
    const more = { numFewshot: 2, ...(seed === undefined ? {} : { seed }) };
    await run(workOf([data], more), { ...fakeModel(calls), maxLength: 2000 });
    return JSON.stringify(calls);
  };
  assert.equal(await asked(), await asked(1234));
  assert.notEqual(await asked(), await asked(5));
});

test("examples stand before every question, and the result says how many and from where", async () => {
  const calls: (readonly ScoreRequest[])[] = [];
  const shots = await taskFile("arc_easy", arcDocs.slice(0, 5));
  const data = {
    ...(await taskFile("arc_easy", [{ question: "Q", choices: ["a", "b"], gold: 0 }])),
    shotsPath: shots.path,
  };
  const events = await run(workOf([data], { numFewshot: 2 }), { ...fakeModel(calls), maxLength: 2000 });
  const [result] = resultOf(events).results;
  assert.equal(result?.settings["num_fewshot"], 2);
  assert.equal(result?.settings["fewshot_split"], "train");
  const digest = createHash("sha256")
    .update(await readFile(shots.path))
    .digest("hex");
  assert.equal(result?.settings["fewshot_digest"], digest);
  for (const { ids, start } of calls.flat()) {
    const context = String.fromCharCode(...ids.slice(0, start));
    assert.match(
      context,
      /^Question: [^?]*\?\nAnswer: (yes|no \d|maybe)\n\nQuestion: [^?]*\?\nAnswer: .*\n\nQuestion: Q\nAnswer:$/,
    );
  }
});

test("work that stops or fails leaves no unfinished log", async () => {
  const controller = new AbortController();
  const work = workOf([await taskFile("arc_easy", arcDocs)], { blobDir: folder });
  await run(
    work,
    fakeModel([], () => controller.abort()),
    controller.signal,
  );
  const failing: ServedModel = { ...fakeModel(), score: () => Promise.reject(new Error("out of order")) };
  await assert.rejects(run(work, failing), /out of order/);
  assert.deepEqual(await readdir(join(folder, "tmp")), []);
});

test("a model that has diverged gives results that JSON can carry", async () => {
  const diverged: ServedModel = {
    ...fakeModel(),
    score: (requests) => Promise.resolve(requests.map(() => ({ logLikelihood: Number.NaN, isGreedy: false }))),
  };
  const work = workOf([await taskFile("lambada_openai", [{ text: "a b" }, { text: "c d" }])]);
  const [result] = resultOf(await run(work, diverged)).results;
  assert.equal(result?.metrics["perplexity,none"], "NaN");
  assert.deepEqual(JSON.parse(JSON.stringify(result)), result);
});

test("a limit takes the first docs and is on record", async () => {
  const [result] = resultOf(await run(workOf([await taskFile("arc_easy", arcDocs)], { limit: 0.11 }))).results;
  assert.equal(result?.numDocs, 5);
  assert.equal(result?.settings["limit"], 0.11);
  assert.equal(result?.settings["docs_in_file"], 40);
});

test("what cannot be evaluated is refused by name", async () => {
  const arc = await taskFile("arc_easy", arcDocs);
  const refusals: readonly [EvaluateWork, string, RegExp][] = [
    [workOf([{ task: "mmlu", path: arc.path }]), "invalid_request", /"mmlu" is not known; there are .*arc_easy/],
    [workOf([arc], { maxLength: 201 }), "invalid_request", /max_length is 201, 1 to 200/],
    [workOf([arc], { limit: -1 }), "invalid_request", /limit is -1/],
    [workOf([arc], { numFewshot: -1 }), "invalid_request", /num_fewshot is -1, an integer from 0 to 1000/],
    [workOf([arc], { numFewshot: 0.5 }), "invalid_request", /num_fewshot is 0.5/],
    [workOf([arc], { seed: -1 }), "invalid_request", /seed is -1, an integer from 0 to 4294967295/],
    [
      workOf([arc], { numFewshot: 2 }),
      "dataset_invalid",
      /arc_easy: num_fewshot is 2 and there is no file of train.hf.jsonl or train.jsonl .*question: string.*; the train split of allenai\/ai2_arc \(ARC-Easy\)/,
    ],
    [
      workOf([{ ...arc, shotsPath: join(folder, "none") }], { numFewshot: 2 }),
      "dataset_invalid",
      /cannot be read \(wanted is train.hf.jsonl/,
    ],
    [
      workOf([{ ...arc, shotsPath: arc.path }], { numFewshot: 41 }),
      "dataset_invalid",
      /num_fewshot 41 draws 41 examples, the file has 40 docs/,
    ],
    [
      workOf([{ task: "arc_easy", path: join(folder, "none") }]),
      "dataset_invalid",
      /arc_easy: the file cannot be read \(wanted is test.hf.jsonl or .*the test split of allenai\/ai2_arc/,
    ],
    [workOf([arc], { maxLength: 3 }), "unprocessable", /arc_easy doc 0, request 0: the continuation has 4 tokens/],
  ];
  for (const [work, code, message] of refusals) {
    await assert.rejects(run(work), (error: unknown) => {
      assert.ok(error instanceof CodedError, String(error));
      assert.equal(error.code, code);
      assert.match(error.message, message);
      return true;
    });
  }
  const small = { ...fakeModel(), vocabSize: 200 };
  await assert.rejects(run(workOf([arc]), small), /258 tokens, the model's vocab_size is 200/);
});
