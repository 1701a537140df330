import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { aggregate } from "../../../src/engine/eval/aggregate.ts";
import { findTask, tasks } from "../../../src/engine/eval/index.ts";
import { metrics } from "../../../src/engine/eval/metrics.ts";
import { limitDocs, parseDocs } from "../../../src/engine/eval/readDocs.ts";
import type { ScoringResult, Task, TaskDoc } from "../../../src/engine/eval/task.ts";
import { detokenizeWikitext } from "../../../src/engine/eval/tasks/wikitext.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedReference } from "../../helpers/shared.ts";
import {
  benchmarkFiles,
  benchmarks,
  goldenTasks,
  harnessRuns,
  harnessSamples,
  readBenchmark,
  readFirstPrompts,
  readHarnessRun,
  readWikitextGolden,
} from "./goldenTasks.ts";

const goldenPath = sharedReference("eval-golden.json");

function task(name: string): Task {
  const found = findTask(name);
  assert.ok(found, `${name} is registered`);
  return found;
}

function docsOf(name: string, file = benchmarkFiles[name] ?? ""): readonly TaskDoc[] {
  return parseDocs(task(name), readBenchmark(file), null).docs;
}

function parseOne(name: string, value: unknown): TaskDoc {
  const doc = parseDocs(task(name), JSON.stringify(value), null).docs[0];
  assert.ok(doc);
  return doc;
}

function finish<T>(steps: Generator<number, T>): T {
  let step = steps.next();
  while (!step.done) step = steps.next();
  return step.value;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** The pairs of (context, continuation) of a doc. */
function pairs(doc: TaskDoc): string[][] {
  return doc.requests.map((request) => {
    assert.equal(request.kind, "loglikelihood");
    return request.kind === "loglikelihood" ? [request.context, request.continuation] : [];
  });
}

test("every task has the docs its dataset says it has", needsShared(benchmarks), () => {
  for (const { name, dataset } of goldenTasks) assert.equal(docsOf(name).length, dataset.numDocs, name);
});

test(
  "the first prompts of every task equal the harness's, to the character",
  needsShared(benchmarks, harnessSamples),
  () => {
    const prompts = readFirstPrompts();
    let compared = 0;
    for (const { name } of goldenTasks) {
      for (const [index, expected] of (prompts.get(name) ?? []).entries()) {
        const doc = docsOf(name)[index];
        assert.ok(doc);
        if (name === "wikitext") continue;
        assert.deepEqual(pairs(doc), expected, `${name} doc ${index}`);
        compared++;
      }
    }
    assert.equal(compared, 21, "seven tasks of three docs");
  },
);

test("the target of every doc equals the one the harness logged", needsShared(benchmarks, harnessRuns), () => {
  for (const { name } of goldenTasks) {
    const docs = docsOf(name);
    const { samples } = readHarnessRun("nobos", name);
    assert.equal(samples.length, docs.length);
    for (const sample of samples) {
      if (sample.target !== null) assert.equal(docs[sample.doc_id]?.target, String(sample.target), name);
    }
  }
});

for (const profile of ["bos", "nobos"] as const) {
  test(`the harness's own log-likelihoods give its metrics (${profile})`, needsShared(benchmarks, harnessRuns), () => {
    for (const { name, metrics: names } of goldenTasks) {
      const docs = docsOf(name);
      const { samples, results } = readHarnessRun(profile, name);
      const answers = samples.map((sample): ScoringResult[] =>
        sample.resps.map((resp) => {
          const [logLikelihood, greedy] = typeof resp === "number" ? [resp, 0] : resp;
          return { logLikelihood, isGreedy: greedy === 1 };
        }),
      );
      samples.forEach((sample, i) => {
        const scores = docs[i]?.score(answers[i] ?? []);
        if (sample.acc !== undefined) assert.equal(scores?.acc?.value, sample.acc, `${name} doc ${i} acc`);
        if (sample.acc_norm !== undefined) assert.equal(scores?.acc_norm?.value, sample.acc_norm, `${name} doc ${i}`);
      });
      const got = finish(aggregate(task(name), docs, answers, 0));
      for (const metric of names) {
        const value = Number(got[`${metric},none`]);
        const expected = Number(results[`${metric},none`]);
        // The logged likelihoods have five decimals: exact for accuracies, close for perplexities.
        if (metric.startsWith("acc")) assert.equal(value, expected, `${name} ${metric}`);
        else assert.ok(Math.abs(value / expected - 1) < 1e-5, `${name} ${metric}: ${value}, ${expected} is wanted`);
      }
      if (name === "lambada_openai") continue;
      const withErrors = finish(aggregate(task(name), docs, answers, 100_000));
      for (const metric of names) {
        const key = `${metric}_stderr,none`;
        assert.equal(withErrors[key], results[key], `${name} ${key}`);
      }
    }
  });
}

test("wikitext in full precision equals the harness to the last bit", needsShared(benchmarks, harnessSamples), () => {
  for (const profile of ["no-bos", "tokenizer-default"] as const) {
    const golden = readWikitextGolden(profile);
    const docs = docsOf("wikitext").slice(0, golden.samples.length);
    const answers = golden.samples.map(({ ll }) => [{ logLikelihood: ll, isGreedy: false }]);
    const got = finish(aggregate(task("wikitext"), docs, answers, 100_000));
    for (const [key, value] of Object.entries(got)) assert.equal(value, golden.results[key], `${profile} ${key}`);
  }
});

test("pages are taken out of their marks as the harness does", needsShared(benchmarks, harnessSamples), () => {
  const docs = docsOf("wikitext");
  for (const [index, sample] of readWikitextGolden("no-bos").samples.entries()) {
    const doc = docs[index];
    assert.equal(sha256(doc?.target ?? ""), sample.target_hash, `page ${index}`);
    const scores = doc?.score([{ logLikelihood: -1, isGreedy: false }]);
    assert.equal(scores?.word_perplexity?.weight, sample.words);
    assert.equal(scores?.byte_perplexity?.weight, sample.bytes);
  }
});

test("builders and detokeniser equal the harness's functions on awkward docs", needsShared(goldenPath), () => {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  const golden: any = JSON.parse(readFileSync(goldenPath ?? "", "utf8"));
  for (const { page, target, words, bytes } of golden.wikitext) {
    assert.equal(detokenizeWikitext(page), target);
    const scores = parseOne("wikitext", { page }).score([{ logLikelihood: -1, isGreedy: false }]);
    assert.equal(scores.word_perplexity?.weight, words);
    assert.equal(scores.byte_perplexity?.weight, bytes);
  }
  const { text, ctx, cont } = golden.lambada;
  assert.deepEqual(pairs(parseOne("lambada_openai", { text })), [[ctx, cont]]);
  const sciq = { question: "Q?", distractor1: "a", distractor2: "b", distractor3: "c", correct_answer: "d" };
  assert.equal(pairs(parseOne("sciq", { ...sciq, support: "" }))[0]?.[0], golden.sciq.empty_support);
  assert.equal(pairs(parseOne("sciq", { ...sciq, support: " \n S. " }))[0]?.[0], golden.sciq.ws);
  const sentence = "Ann beat Sue because _ was faster. ";
  const winogrande = parseOne("winogrande", { sentence, option1: "Ann", option2: "Sue", answer: "1" });
  assert.deepEqual(
    pairs(winogrande),
    golden.winogrande.ctxs.map((c: string) => [c, golden.winogrande.cont]),
  );
  const logiqa = { context: "P.", question: "Q?", options: ["w", "x", "y", "z"], label: "c\n" };
  const logiqaDoc = parseOne("logiqa", logiqa);
  assert.equal(pairs(logiqaDoc)[0]?.[0], golden.logiqa.ctx);
  assert.equal(logiqaDoc.target, String(golden.logiqa.gold));
});

test("both shapes of the ARC files are the same docs", needsShared(benchmarks), () => {
  for (const name of ["arc_easy", "arc_challenge"]) {
    const flat = docsOf(name, `${name}/test.jsonl`).map((doc) => [pairs(doc), doc.target]);
    const nested = docsOf(name, `${name}/test.hf.jsonl`).map((doc) => [pairs(doc), doc.target]);
    assert.deepEqual(nested, flat);
  }
});

test("numeric ARC keys are found among the labels, and a gold that contradicts the key is refused", () => {
  const doc = { question: "Q?", choices: { text: ["w", "x", "y"], label: ["1", "2", "3"] }, answerKey: "2" };
  assert.equal(parseOne("arc_easy", doc).target, "1");
  assert.equal(parseOne("arc_easy", { ...doc, gold: 1 }).target, "1");
  assert.throws(() => parseOne("arc_easy", { ...doc, gold: 2 }), /line 1: field "gold"/);
  assert.throws(() => parseOne("arc_easy", { ...doc, answerKey: "4" }), /line 1: field "answerKey" is "4"/);
});

test("acc_norm divides by code points, and an empty choice cannot win", () => {
  const answer = (logLikelihood: number): ScoringResult => ({ logLikelihood, isGreedy: false });
  const doc = { goal: "g", sol1: "\u{1F600}\u{1F600}", sol2: "abcd", label: 1 };
  // By code points -4/2 < -6/4, by UTF-16 units -4/4 > -6/4.
  const scores = parseOne("piqa", doc).score([answer(-4), answer(-6)]);
  assert.equal(scores.acc?.value, 0);
  assert.equal(scores.acc_norm?.value, 1);
  const empty = parseOne("piqa", { ...doc, sol1: "" }).score([answer(-0.1), answer(-50)]);
  assert.equal(empty.acc_norm?.value, 1);
});

const lies: readonly [task: string, doc: unknown, message: RegExp][] = [
  ["lambada_openai", {}, /lambada_openai line 1: field "text" missing/],
  ["lambada_openai", { text: 5 }, /line 1: field "text" is not a string/],
  ["lambada_openai", ["text"], /line 1: a JSON object is wanted/],
  ["lambada_openai", null, /line 1: a JSON object is wanted/],
  ["arc_easy", { question: "q", choices: ["a", "b"], gold: 2 }, /field "gold" is 2, an integer from 0 to 1/],
  ["arc_easy", { question: "q", choices: ["a", "b"], gold: "1" }, /field "gold" is "1"/],
  ["arc_easy", { question: "q", choices: ["a", 1], gold: 0 }, /field "choices" holds no strings/],
  ["arc_easy", { question: "q", choices: ["a"], gold: 0 }, /field "choices" has 1 entries, 2 to 8/],
  ["arc_easy", { question: "q", choices: { text: ["a", "b"], label: ["A"] }, answerKey: "A" }, /"label" has 1 entries/],
  ["arc_easy", { choices: ["a", "b"], gold: 0 }, /field "question" missing/],
  ["logiqa", { context: "", question: "", options: ["", "", "", ""], label: "e" }, /field "label" is "e"/],
  ["piqa", { goal: "", sol1: "", sol2: "", label: true }, /field "label" is true/],
  ["winogrande", { sentence: "none", option1: "", option2: "", answer: "1" }, /no "_"/],
  ["winogrande", { sentence: "_", option1: "", option2: "", answer: 1 }, /field "answer" is not a string/],
  ["wikitext", { text: "" }, /field "page" missing/],
  ["boolq", { passage: "", question: "", label: 2 }, /field "label" is 2, an integer from 0 to 1/],
  ["boolq", { passage: "", question: "", label: true }, /field "label" is true/],
  ["boolq", { passage: "", question: "", label: -1 }, /field "label" is -1/],
  ["boolq", { question: "", label: 0 }, /field "passage" missing/],
  [
    "openbookqa",
    { question_stem: "", choices: { text: ["a", "b"], label: ["A", "B"] }, answerKey: "E" },
    /"answerKey" is "E"/,
  ],
  ["openbookqa", { question_stem: "", choices: ["a", "b"], answerKey: "A" }, /field "choices" is not an object/],
  ["openbookqa", { choices: { text: ["a", "b"], label: ["A", "B"] }, answerKey: "A" }, /field "question_stem" missing/],
  [
    "hellaswag",
    { activity_label: "", ctx_a: "", ctx_b: "", endings: ["", "", ""], label: "0" },
    /"endings" has 3 entries, 4 to 4/,
  ],
  [
    "hellaswag",
    { activity_label: "", ctx_a: "", ctx_b: "", endings: ["", "", "", ""], label: "" },
    /field "label" is "", a digit from 0 to 3/,
  ],
  [
    "hellaswag",
    { activity_label: "", ctx_a: "", ctx_b: "", endings: ["", "", "", ""], label: "4" },
    /field "label" is "4"/,
  ],
  [
    "hellaswag",
    { activity_label: "", ctx_a: "", ctx_b: "", endings: ["", "", "", ""], label: 1.5 },
    /field "label" is 1.5/,
  ],
  ["hellaswag", { activity_label: "", ctx_a: "", endings: ["", "", "", ""], label: "0" }, /field "ctx_b" missing/],
];

for (const [name, doc, message] of lies) {
  test(`a doc of ${name} is refused: ${message.source}`, () => {
    assert.throws(
      () => parseOne(name, doc),
      (error: unknown) => {
        assert.ok(error instanceof CodedError);
        assert.equal(error.code, "dataset_invalid");
        assert.match(error.message, message);
        return true;
      },
    );
  });
}

test("a text of brackets that never close is read in linear time", () => {
  const endings = ["[".repeat(2_000_000), "[\n".repeat(500_000), "[a]".repeat(500_000), ""];
  const doc = parseOne("hellaswag", { activity_label: "", ctx_a: "", ctx_b: "", endings, label: 3 });
  assert.equal(pairs(doc)[2]?.[1], " ");
});

test("a page of marks that never close is read in linear time", () => {
  for (const page of [
    `(${" ".repeat(1_000_000)}`,
    "( ".repeat(500_000),
    "[".repeat(1_000_000),
    `${" ".repeat(1_000_000)}x`,
  ]) {
    assert.equal(detokenizeWikitext(page).length > 0, true);
  }
  assert.equal(detokenizeWikitext('( a ( b ) c ) [\u0085d\n] " e " {  } x'), '(a ( b) c ) [d] "e" {} x');
});

test("what a line may hold is bounded", () => {
  const deep = `{"page": "p", "more": ${"[".repeat(50)}${"]".repeat(50)}}`;
  assert.throws(() => parseDocs(task("wikitext"), deep, null), /wikitext line 1: nested deeper than 16/);
  assert.throws(() => parseDocs(task("wikitext"), '{"page": "p", "page": "q"}', null), /line 1: duplicate key "page"/);
});

test("fields that a prototype has are not taken for fields", () => {
  assert.throws(() => parseDocs(task("wikitext"), '{"__proto__": {"page": "p"}}', null), /field "page" missing/);
});

test("the message names the line of the file, blank lines counted", () => {
  assert.throws(
    () => parseDocs(task("wikitext"), '{"page": "a"}\n\n{"page": "b"\n', null),
    /wikitext line 3: .* an object/,
  );
});

test("a limit takes the first docs: a number, or below 1 a fraction rounded up", () => {
  assert.equal(limitDocs(62, null), 62);
  assert.equal(limitDocs(62, 5), 5);
  assert.equal(limitDocs(62, 5.9), 5);
  assert.equal(limitDocs(62, 100), 62);
  assert.equal(limitDocs(62, 0.5), 31);
  assert.equal(limitDocs(62, 0.01), 1);
  assert.throws(() => limitDocs(62, 0), CodedError);
});

for (const entry of tasks) {
  test(`${entry.name} keeps the contract of a task`, () => {
    assert.match(entry.name, /^[a-z_]+$/);
    assert.match(entry.version, /^\d+\.\d+$/);
    assert.ok(entry.dataset.fileNames.length > 0 && entry.dataset.fields.length > 0);
    assert.ok(entry.metrics.length > 0);
    if (entry.fewshot.from === "file") assert.ok(entry.fewshot.fileNames.length > 0 && entry.fewshot.split !== "");
    for (const name of entry.metrics) assert.ok(name in metrics);
    assert.equal(tasks.filter(({ name }) => name === entry.name).length, 1, "registered once");
    assert.throws(() => parseDocs(entry, "", null), /no docs/);
  });
}
