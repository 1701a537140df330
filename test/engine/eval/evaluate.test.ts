import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { EvaluateResult, EvaluateWork, TaskData } from "../../../src/engine/backends/work.ts";
import { evaluate } from "../../../src/engine/eval/evaluate.ts";
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
  const digest = createHash("sha256").update(JSON.stringify([ids, start])).digest();
  return { logLikelihood: -digest.readUInt32BE(0) / 2 ** 28, isGreedy: (digest[4] ?? 0) % 2 === 0 };
}

function fakeModel(calls: (readonly ScoreRequest[])[] = [], onCall: () => void = () => undefined): ServedModel {
  return {
    maxLength: 200,
    vocabSize: 258,
    memoryBytes: 0,
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

async function run(work: EvaluateWork, model = fakeModel(), signal = new AbortController().signal): Promise<WorkEvent[]> {
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
  const order = calls.flat().map(({ ids }) => ids.length);
  assert.deepEqual(order, [...order].sort((a, b) => b - a), "longest first");
  assert.equal(order.length, 120);
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
  const [result] = resultOf(await run(workOf([data], { bos: "tokenizer", maxLength: 100 }))).results;
  assert.ok(result);
  assert.equal(result.task, "lambada_openai");
  assert.equal(result.version, "1.0");
  assert.equal(result.numDocs, 2);
  assert.deepEqual(Object.keys(result.metrics), ["perplexity,none", "perplexity_stderr,none", "acc,none", "acc_stderr,none"]);
  assert.deepEqual(result.higherIsBetter, { perplexity: false, acc: true });
  const content = '{"text":"one two"}\n{"text":"three four five"}';
  assert.equal(result.datasetDigest, createHash("sha256").update(content).digest("hex"));
  assert.equal(result.settings["bos"], "tokenizer");
  assert.equal(result.settings["max_length"], 100);
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
  const work = workOf([await taskFile("arc_easy", arcDocs), await taskFile("lambada_openai", [{ text: "a b" }, { text: "c d" }])]);
  const events = await run(work);
  assert.deepEqual(resultOf(events).results.map(({ task }) => task), ["arc_easy", "lambada_openai"]);
  const progress = events.filter((event) => event.type === "progress");
  const fractions = progress.map(({ fraction }) => fraction);
  assert.equal(fractions[0], 0);
  assert.deepEqual(fractions, [...fractions].sort((a, b) => a - b));
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
    [workOf([{ task: "hellaswag", path: arc.path }]), "invalid_request", /"hellaswag" is not known; there are .*arc_easy/],
    [workOf([arc], { maxLength: 201 }), "invalid_request", /max_length is 201, 1 to 200/],
    [workOf([arc], { limit: -1 }), "invalid_request", /limit is -1/],
    [workOf([{ task: "arc_easy", path: join(folder, "none") }]), "dataset_invalid", /arc_easy: the file cannot be read/],
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
