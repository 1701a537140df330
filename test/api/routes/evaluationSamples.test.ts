/** The log of samples over HTTP, paged and whole, and the table of results in its three forms. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { sweepOnce } from "../../../src/engine/jobs/sweeper.ts";
import { assertProblem, startHarness, tinySource, type Harness } from "../helpers/harness.ts";

const piqa = Array.from({ length: 7 }, (_, i) => ({ goal: `Go ${i}`, sol1: "left", sol2: "right", label: i % 2 }));
const lambada = [{ text: "one two" }, { text: "three four" }];

interface Sample {
  readonly task: string;
  readonly doc_id: number;
  readonly prompt_hash: string;
  readonly log_likelihoods: number[];
}

describe("samples and results", () => {
  let api: Harness;
  let evaluation: string;

  before(async () => {
    api = await startHarness();
    const write = (task: string, file: string, docs: readonly unknown[]): void => {
      mkdirSync(join(api.settings.benchmarksDir, task), { recursive: true });
      const text = docs.map((doc) => JSON.stringify(doc)).join("\n");
      writeFileSync(join(api.settings.benchmarksDir, task, file), text);
    };
    write("piqa", "validation.jsonl", piqa);
    write("lambada_openai", "lambada_test.jsonl", lambada);
    await api.work("/v1/checkpoints", { name: "base", source: tinySource });
    const growth = { checkpoint: "base", operator: "direct", axis: "depth", factor: 2, name: "grown" };
    await api.work("/v1/growths", growth);
    const text = { type: "text", text: ["One can go left, or right. ".repeat(20)] };
    await api.work("/v1/datasets", { name: "text", tokenizer: "bytes", source: text });
    const training = { checkpoint: "grown", dataset: "text", tokens: 64, batch_tokens: 32, sequence_length: 32 };
    await api.work("/v1/trainings", { ...training, name: "trained" });
    const tasks = ["piqa", "lambada_openai"];
    const asked = { tasks, bootstrap_iterations: 100 };
    await api.work("/v1/evaluations", { checkpoint: "grown", ...asked });
    await api.work("/v1/evaluations", { checkpoint: "trained", tasks: ["piqa"] });
    evaluation = (await api.work("/v1/evaluations", { checkpoint: "base", ...asked })).result.evaluation;
  });
  after(() => api.close());

  const samplesOf = (query = "") => api.call("GET", `/v1/evaluations/${evaluation}/samples${query}`);

  test("pages hold every doc once, in order, whatever their size; JSONL is the same", async () => {
    const whole = (await samplesOf("?limit=100")).body;
    assert.deepEqual([whole.data.length, whole.has_more, whole.next], [9, false, null]);
    assert.deepEqual(
      whole.data.map(({ task, doc_id }: Sample) => [task, doc_id]),
      [...piqa.map((_, i) => ["piqa", i]), ...lambada.map((_, i) => ["lambada_openai", i])],
    );
    for (const limit of [1, 2, 7, 8]) {
      const paged: Sample[] = [];
      for (let after = ""; ;) {
        const { body } = await samplesOf(`?limit=${limit}${after}`);
        paged.push(...body.data);
        if (!body.has_more) break;
        assert.equal(body.data.length, limit);
        after = `&after=${body.next}`;
      }
      assert.deepEqual(paged, whole.data);
    }
    for (const type of ["application/jsonl", "application/x-ndjson"]) {
      const response = await api.fetch(`/v1/evaluations/${evaluation}/samples`, { headers: { Accept: type } });
      assert.equal(response.headers.get("content-type"), type);
      const lines = (await response.text()).trimEnd().split("\n");
      assert.deepEqual(
        lines.map((line) => JSON.parse(line) as unknown),
        whole.data,
      );
    }
  });

  test("a sample has the harness's hashes, a log-likelihood a choice, gold and whether it was right", async () => {
    const { body } = await samplesOf("?task=piqa&limit=1");
    const [sample] = body.data;
    const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
    assert.deepEqual(
      [sample.prompt_hash, sample.target_hash, sample.gold],
      [sha256("Question: Go 0\nAnswer:"), sha256("0"), 0],
    );
    assert.equal(sample.doc_hash, sha256(JSON.stringify(piqa[0], null, 2)));
    const [left, right] = sample.log_likelihoods;
    assert.equal(sample.correct, left >= right);
    assert.equal(sample.is_greedy.length, 2);
    assert.deepEqual(Object.keys(sample.metrics), ["acc", "acc_norm"]);
  });

  test("wrong cursors, tasks and forms are refused, and so is a log that is not yet there", async () => {
    for (const after of ["1", "piqa.1", "piqa.99999999", "sciq.0"])
      assertProblem(await samplesOf(`?after=${after}`), 400, "invalid_request");
    assertProblem(await samplesOf("?task=sciq"), 404, "not_found");
    assertProblem(await api.call("GET", "/v1/evaluations/eval_0/samples"), 404, "not_found");
    const path = `/v1/evaluations/${evaluation}/samples`;
    assertProblem(await api.call("GET", path, { headers: { Accept: "image/png" } }), 406, "not_acceptable");
    const failing = { checkpoint: "base", tasks: ["piqa"], backend: "cpu", num_fewshot: 0, limit: 1e-9 };
    const job = await api.call("POST", "/v1/evaluations", { body: failing });
    const early = await api.call("GET", `/v1/evaluations/${job.body.request.evaluation}/samples`);
    if (early.status !== 200) assertProblem(early, 409, "conflict");
    await api.call("POST", `/v1/jobs/${job.body.id}/cancel`);
  });

  test("the sweeper leaves logs alone as long as their evaluation is there", async () => {
    const { store, log, metrics } = api.services;
    const settings = { ...api.settings, sweepGraceMs: 0 };
    await sweepOnce({ store, settings, log, metrics }, new AbortController().signal);
    assert.equal((await samplesOf("?limit=100")).body.data.length, 9);
  });

  const table = async (query: string) => (await api.call("GET", `/v1/benchmarks/results?${query}`)).body;
  const names = async (query: string) => (await table(query)).data.map((row: { name: string }) => row.name);

  test("the table has own and published rows, marked, with the paper's averages, sorted and paged", async () => {
    const averages = (await table("limit=20")).data.map((row: { average: number }) => row.average);
    assert.deepEqual(
      averages,
      averages.toSorted((a: number, b: number) => b - a),
    );
    const all = (await table("limit=100")).data;
    for (const { published, source, checkpoint, name } of all)
      assert.deepEqual([source !== null, checkpoint === null], [published, published], name);
    for (const name of ["Pythia-1B", "TinyLlama-1.1B", "OLMo-7B", "Amber-7B"])
      assert.ok(
        all.some((row: { name: string; published: boolean }) => row.name === name && row.published),
        name,
      );
    const printed = all.find((row: { name: string }) => row.name === "G_stack-1.1B");
    assert.ok(Math.abs(printed.average - 0.528) < 1e-4 && printed.printed_average === 0.528);
    assert.match(printed.source, /Table 3/);
    assert.deepEqual(await names("published=false&sort=name"), ["base", "grown", "trained"]);
    assert.deepEqual((await names("published=false&sort=-num_parameters")).at(-1), "base");
    assert.deepEqual(
      await names("published=false&sort=tokens&min_tokens=0"),
      await names("published=false&sort=flops"),
    );
    const { data } = await table("published=false&sort=-piqa");
    const scores = data.map((row: { scores: { piqa: { value: number } } }) => row.scores.piqa.value);
    assert.deepEqual(
      scores,
      scores.toSorted((a: number, b: number) => b - a),
    );
    const first = await table("limit=2&sort=name");
    assert.deepEqual([first.has_more, first.next], [true, "2"]);
    assert.deepEqual(await names("limit=2&sort=name&after=2"), (await names("limit=4&sort=name")).slice(2));
    assertProblem(await api.call("GET", "/v1/benchmarks/results?sort=colour"), 400, "invalid_request");
    assertProblem(await api.call("GET", "/v1/benchmarks/results?after=x"), 400, "invalid_request");
    const ten = await table("average=ten&limit=1");
    assert.deepEqual([ten.average_over.length, ten.data[0].name], [10, "G_stack-7B"]);
  });

  test("the table is filtered by lineage, operator, tokens, FLOPs, checkpoint, task and settings", async () => {
    const id = (await api.call("GET", "/v1/checkpoints/grown")).body.id;
    const { tokens_seen: tokens, flops_spent: flops } = (await api.call("GET", "/v1/checkpoints/trained")).body;
    assert.ok(tokens === 64 && flops > 0);
    const own: [query: string, found: string[]][] = [
      ["operator=direct", ["grown", "trained"]],
      ["operator=zero", []],
      [`min_tokens=${tokens}`, ["trained"]],
      [`max_tokens=${tokens - 1}`, ["base", "grown"]],
      [`min_flops=${flops}`, ["trained"]],
      [`max_flops=${flops * 0.99}`, ["base", "grown"]],
      [`min_flops=${flops * 1.01}`, []],
      ["num_fewshot=5", []],
      ["bos=none", ["base", "grown", "trained"]],
      ["bos=tokenizer", []],
      ["task=lambada_openai", ["base", "grown"]],
    ];
    for (const [query, found] of own) assert.deepEqual(await names(`published=false&sort=name&${query}`), found, query);
    assert.deepEqual(await names(`lineage=${id}&sort=name`), ["base", "grown", "trained"]);
    assert.deepEqual(await names(`checkpoint=${id}`), ["grown"]);
    assert.deepEqual(await names("min_tokens=2e11&max_tokens=2.95e11&sort=name"), ["G_stack 3B", "G_stack 3B, tuned"]);
    const printed = (await table("min_flops=1e20&limit=100")).data;
    assert.ok(printed.length > 4 && printed.every((row: { flops: number }) => row.flops >= 1e20));
    assert.ok((await names("operator=zero")).every((name: string) => /zero/.test(name)));
  });

  test("what has not changed is answered 304, in each form, and the forms have tags of their own", async () => {
    const samples = `/v1/evaluations/${evaluation}/samples`;
    const forms: [path: string, accept: string][] = [
      [`${samples}?limit=2`, "application/json"],
      [samples, "application/jsonl"],
      [samples, "application/x-ndjson"],
      ...["application/json", "text/csv", "text/markdown"].map((accept): [string, string] => {
        return ["/v1/benchmarks/results?limit=5", accept];
      }),
    ];
    const tags = new Set<string>();
    for (const [path, accept] of forms) {
      const tag = (await api.call("GET", path, { headers: { Accept: accept } })).headers.get("etag") ?? "";
      tags.add(tag);
      const again = await api.call("GET", path, { headers: { Accept: accept, "If-None-Match": tag } });
      assert.deepEqual([again.status, again.body, again.headers.get("etag")], [304, "", tag], `${path} ${accept}`);
      const other = await api.call("GET", path, { headers: { Accept: accept, "If-None-Match": '"other"' } });
      assert.equal(other.status, 200);
      for (const answer of [again, other])
        assert.equal(answer.headers.get("vary"), "Accept", "caches keep forms apart");
    }
    assert.equal(tags.size, forms.length);
  });

  test("CSV has a column a task and its error, Markdown marks what is published", async () => {
    const form = (accept: string, query: string) =>
      api.call("GET", `/v1/benchmarks/results?${query}`, { headers: { Accept: accept } });
    const csv = (await form("text/csv", "published=false&sort=name")).body.split("\r\n");
    assert.match(
      csv[0],
      /^name,checkpoint,published,.*,average,lambada_openai,lambada_openai_stderr,piqa,piqa_stderr$/,
    );
    assert.deepEqual([csv.length, csv[1].split(",")[0], csv[4]], [5, "base", ""]);
    assert.match((await form("text/csv", "limit=100")).body, /^G_stack-7B,,true,"arXiv 2405.15319, Table 6",direct,/m);
    const markdown = (await form("text/markdown", "limit=100&sort=name")).body;
    assert.match(markdown, /^\| base \|/m);
    assert.match(markdown, /^\| G_stack-7B \[\d\] \| 57\.93 \|.*\| 58\.45 \|$/m);
    assert.match(markdown, /^\[\d\] published: arXiv 2405\.15319, Table 6$/m);
    assert.match(markdown, /± /);
  });
});
