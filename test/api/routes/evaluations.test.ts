/** Benchmarks and evaluations over HTTP: a task file of three documents, scored by a real model. */
import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { assertProblem, startHarness, tinySource, type Harness } from "../helpers/harness.ts";

const questions = ["sky", "sea", "sun"].map((thing, index) => ({
  question: `What colour has the ${thing}?`,
  choices: { text: ["red", "blue", "yellow"], label: ["A", "B", "C"] },
  answerKey: "ABC"[index],
}));

describe("evaluations", () => {
  let api: Harness;
  let checkpoint: string;
  let evaluation: string;

  before(async () => {
    api = await startHarness();
    const folder = join(api.settings.benchmarksDir, "arc_easy");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "test.jsonl"), questions.map((line) => JSON.stringify(line)).join("\n"));
    checkpoint = (await api.work("/v1/checkpoints", { name: "base", source: tinySource })).result.checkpoint;
    evaluation = (await api.work("/v1/evaluations", { checkpoint: "base", tasks: ["arc_easy"] })).result.evaluation;
  });
  after(() => api.close());

  test("benchmarks tell where their documents are had", async () => {
    const { body } = await api.call("GET", "/v1/benchmarks");
    const names = body.data.map((task: { name: string }) => task.name);
    for (const name of ["wikitext", "lambada_openai", "arc_easy"]) assert.ok(names.includes(name), name);
    const lambada = body.data.find((task: { name: string }) => task.name === "lambada_openai");
    assert.deepEqual(
      [lambada.version, lambada.dataset.num_docs, lambada.metrics.toSorted()],
      ["1.0", 5153, ["acc", "perplexity"]],
    );
  });

  test("an evaluation has its results, with the harness's metric keys and every setting", async () => {
    const { body } = await api.call("GET", `/v1/evaluations/${evaluation}`);
    assert.deepEqual([body.status, body.checkpoint, body.error], ["succeeded", checkpoint, null]);
    const [result] = body.results;
    assert.deepEqual([result.task, result.task_version, result.num_docs], ["arc_easy", "1.0", 3]);
    const metrics = Object.keys(result.metrics)
      .filter((key) => key !== "alias")
      .toSorted();
    assert.deepEqual(metrics, ["acc,none", "acc_norm,none", "acc_norm_stderr,none", "acc_stderr,none"]);
    assert.ok(result.metrics["acc,none"] >= 0 && result.metrics["acc,none"] <= 1);
    assert.match(result.dataset_digest, /^[0-9a-f]{64}$/);
    const { settings } = result;
    assert.deepEqual(
      [settings.bos, settings.profile, settings.name, settings.sample_len, settings.num_fewshot, settings.seed],
      ["none", "no-bos", "arc_easy", 3, 0, 1234],
    );
    assert.deepEqual([settings.max_length, settings.dtype, settings.data.type], [64, "float32", "directory"]);
    assert.match(settings.harness_commit, /^[0-9a-f]{9,40}$/);
    assert.equal(typeof settings.backend, "string");
  });

  test("examples are drawn from the directory's training file, and the result says how many, by which seed", async () => {
    const lines = questions.map((line) => JSON.stringify({ ...line, question: `${line.question} Say.` }));
    writeFileSync(join(api.settings.benchmarksDir, "arc_easy", "train.jsonl"), lines.join("\n"));
    const request = { checkpoint: "base", tasks: ["arc_easy"], num_fewshot: 2, seed: 3, max_length: 60 };
    const { result } = await api.work("/v1/evaluations", request);
    const { body } = await api.call("GET", `/v1/evaluations/${result.evaluation}`);
    const { settings } = body.results[0];
    assert.deepEqual(
      [settings.num_fewshot, settings.seed, settings.fewshot_split, settings.max_length, settings.data.fewshot.file],
      [2, 3, "train", 60, "train.jsonl"],
    );
    const samples = await api.call("GET", `/v1/evaluations/${result.evaluation}/samples`);
    const plain = await api.call("GET", `/v1/evaluations/${evaluation}/samples`);
    assert.notEqual(samples.body.data[0].prompt_hash, plain.body.data[0].prompt_hash);
    rmSync(join(api.settings.benchmarksDir, "arc_easy", "train.jsonl"));
  });

  test("lists by checkpoint, and the table of the latest results", async () => {
    const { body } = await api.call("GET", `/v1/evaluations?checkpoint=${checkpoint}`);
    assert.deepEqual(body.data.map((row: { id: string }) => row.id).at(-1), evaluation);
    const query = `checkpoint=${checkpoint}&task=arc_easy&num_fewshot=0`;
    const table = (await api.call("GET", `/v1/benchmarks/results?${query}`)).body;
    const [row] = table.data;
    assert.deepEqual([table.data.length, row.scores.arc_easy.evaluation, row.name], [1, evaluation, "base"]);
    assert.equal(row.scores.arc_easy.metric, "acc_norm");
    const none = await api.call("GET", "/v1/benchmarks/results?task=wikitext&published=false");
    assert.deepEqual(none.body.data, []);
    const etag = (await api.call("GET", `/v1/evaluations/${evaluation}`)).headers.get("etag") ?? "";
    assert.equal(
      (await api.call("GET", `/v1/evaluations/${evaluation}`, { headers: { "If-None-Match": etag } })).status,
      304,
    );
  });

  test("progress tells a share and the time left while it runs; cancelled, it has no results and computes no more", async () => {
    const folder = join(api.settings.benchmarksDir, "piqa");
    mkdirSync(folder, { recursive: true });
    const docs = Array.from({ length: 3_000 }, (_, i) => ({
      goal: `Go ${i}`,
      sol1: "on and on",
      sol2: "left",
      label: 0,
    }));
    writeFileSync(join(folder, "validation.jsonl"), docs.map((doc) => JSON.stringify(doc)).join("\n"));
    const request = { checkpoint: "base", tasks: ["piqa"], backend: "cpu" };
    const { body: job } = await api.call("POST", "/v1/evaluations", { body: request });
    const jobNow = async () => (await api.call("GET", `/v1/jobs/${job.id}`)).body;
    let seen = await jobNow();
    for (const deadline = Date.now() + 60_000; !(seen.progress?.eta_seconds > 0); seen = await jobNow()) {
      assert.ok(["queued", "running"].includes(seen.status) && Date.now() < deadline, JSON.stringify(seen));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.ok(seen.progress.fraction > 0 && seen.progress.fraction < 1, JSON.stringify(seen.progress));
    await api.call("POST", `/v1/jobs/${job.id}/cancel`);
    for (const deadline = Date.now() + 60_000; seen.status !== "cancelled"; seen = await jobNow()) {
      assert.ok(Date.now() < deadline, JSON.stringify(seen));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const { body } = await api.call("GET", `/v1/evaluations/${job.request.evaluation}`);
    assert.deepEqual([body.status, body.results], ["cancelled", []]);
    assertProblem(await api.call("GET", `/v1/evaluations/${body.id}/samples`), 409, "conflict");
    rmSync(folder, { recursive: true });
  });

  test("400, 404 and 422: unknown tasks, unknown ids, tasks whose file is not there", async () => {
    const post = (change: object) =>
      api.call("POST", "/v1/evaluations", { body: { checkpoint: "base", tasks: ["arc_easy"], ...change } });
    assertProblem(await post({ checkpoint: "nobody" }), 404, "not_found");
    assertProblem(await post({ tasks: [] }), 400, "invalid_request");
    assertProblem(await post({ tasks: ["arc_easy", "arc_easy"] }), 400, "invalid_request");
    const unknown = await post({ tasks: ["no_such_task"] });
    assert.ok(unknown.status >= 400 && unknown.status < 500, JSON.stringify(unknown.body));
    assert.match(unknown.body.errors[0].pointer, /^\/tasks/);
    const missing = await post({ tasks: ["wikitext"] });
    assertProblem(missing, 404, "not_found");
    for (const wanted of [/wikitext\/test.pages.jsonl below BENCHMARKS_DIR/, /page: string/, /wikitext_document_level/])
      assert.match(missing.body.detail, wanted);
    const shots = await post({ num_fewshot: 2 });
    assertProblem(shots, 404, "not_found");
    assert.deepEqual(
      shots.body.errors.map(({ pointer }: { pointer: string }) => pointer),
      ["/num_fewshot"],
    );
    assert.match(shots.body.detail, /the train split of allenai\/ai2_arc \(ARC-Easy\)/);
    assertProblem(await post({ num_fewshot: -1 }), 400, "invalid_request");
    assertProblem(await post({ seed: 2 ** 32 }), 400, "invalid_request");
    assertProblem(await post({ max_length: 65 }), 422, "unprocessable");
    assertProblem(await post({ data: { piqa: { type: "directory" } } }), 400, "invalid_request");
    assertProblem(await post({ data: { arc_easy: { type: "floppy" } } }), 400, "invalid_request");
    const upload = { type: "upload", upload: `upl_${"0".repeat(32)}` };
    assertProblem(await post({ data: { arc_easy: upload } }), 404, "not_found");
    assertProblem(await api.call("GET", "/v1/evaluations/eval_0"), 404, "not_found");
    assertProblem(await api.call("GET", "/v1/evaluations/other"), 400, "invalid_request");
  });
});
