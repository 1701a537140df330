/** Where an evaluation's docs come from, over HTTP: uploads, the hub (a local server that behaves like it), examples. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startDatasetHub, type DatasetHub } from "../../engine/eval/datasetHub.ts";
import { flatParquet } from "../../engine/eval/parquetFiles.ts";
import { assertProblem, startHarness, tinySource, type Harness } from "../helpers/harness.ts";

const docs = Array.from({ length: 4 }, (_, i) => ({ goal: `Go ${i}`, sol1: "left", sol2: "right", label: i % 2 }));
const types = { goal: "STRING", sol1: "STRING", sol2: "STRING", label: "INT64" } as const;
const commit = "c".repeat(40);

describe("the data of an evaluation", () => {
  let api: Harness;
  let hub: DatasetHub;

  before(async () => {
    const parquet = flatParquet(docs, types);
    const files = { "default/validation/0000.parquet": parquet, "default/train/0000.parquet": parquet };
    hub = await startDatasetHub({ "baber/piqa": { "refs/convert/parquet": { commit, files } } });
    api = await startHarness({ environment: { HUB_ENDPOINT: hub.endpoint } });
    await api.work("/v1/checkpoints", { name: "base", source: tinySource });
  });
  after(() => api.close().finally(() => hub.close()));

  /** An upload that has come in whole, as the upload route leaves it. */
  function upload(name: string, bytes: Uint8Array): string {
    const id = `upl_${randomBytes(16).toString("hex")}`;
    const { uploadsDir } = api.settings;
    mkdirSync(uploadsDir, { recursive: true });
    writeFileSync(join(uploadsDir, id), bytes);
    writeFileSync(
      join(uploadsDir, `${id}.json`),
      JSON.stringify({ id, size: bytes.length, metadata: { filename: name } }),
    );
    return id;
  }

  const resultOf = async (request: object) => {
    const { result } = await api.work("/v1/evaluations", { checkpoint: "base", tasks: ["piqa"], ...request });
    const { body } = await api.call("GET", `/v1/evaluations/${result.evaluation}`);
    return body.results[0];
  };
  const piqaOf = async () => {
    const { body } = await api.call("GET", "/v1/benchmarks");
    return body.data.find((task: { name: string }) => task.name === "piqa").data;
  };

  test("an upload is evaluated, Parquet like JSONL, and is gone when it was", async () => {
    const text = Buffer.from(docs.map((doc) => JSON.stringify(doc)).join("\n"));
    const data = { type: "upload", upload: upload("piqa.jsonl", text) };
    const plain = await resultOf({ data: { piqa: data } });
    assert.deepEqual([plain.num_docs, plain.settings.data], [4, { type: "upload", file: "piqa.jsonl" }]);
    const deadline = Date.now() + 10_000;
    while (existsSync(join(api.settings.uploadsDir, data.upload)) && Date.now() < deadline) await sleep(20);
    const again = { checkpoint: "base", tasks: ["piqa"], data: { piqa: data } };
    assertProblem(await api.call("POST", "/v1/evaluations", { body: again }), 404, "not_found");
    const packed = { type: "upload", upload: upload("piqa.parquet", flatParquet(docs, types)) };
    assert.deepEqual((await resultOf({ data: { piqa: packed } })).metrics, plain.metrics);
    const alone = { piqa: { type: "upload", upload: upload("piqa.jsonl", text) } };
    const shots = { checkpoint: "base", tasks: ["piqa"], num_fewshot: 1, data: alone };
    assertProblem(await api.call("POST", "/v1/evaluations", { body: shots }), 400, "invalid_request");
  });

  test("the hub is asked once a commit; what came from it is on record and is the default from then on", async () => {
    const none = await piqaOf();
    assert.deepEqual(none, { available: false, directory: null, hub: [], fewshot: null });
    const first = await resultOf({ data: { piqa: { type: "hub" } }, num_fewshot: 1, seed: 7 });
    const { settings } = first;
    assert.deepEqual([settings.num_fewshot, settings.seed, settings.fewshot_split], [1, 7, "train"]);
    assert.deepEqual(
      [settings.data.type, settings.data.repository, settings.data.commit, settings.data.fewshot.split],
      ["hub", "baber/piqa", commit, "train"],
    );
    const fetched = hub.seen.filter(({ path }) => path.includes("/objects/")).length;
    assert.equal(fetched, 2);
    const second = await resultOf({ num_fewshot: 1, seed: 7 });
    assert.deepEqual([second.metrics, second.dataset_digest], [first.metrics, first.dataset_digest]);
    assert.equal(hub.seen.filter(({ path }) => path.includes("/objects/")).length, fetched);
    const now = await piqaOf();
    assert.deepEqual(
      [now.available, now.directory, now.fewshot, now.hub[0].commit, now.hub[0].num_docs],
      [true, null, "hub", commit, 4],
    );
  });

  test("a hub that refuses fails the job with its answer", async () => {
    const request = { checkpoint: "base", tasks: ["piqa"], data: { piqa: { type: "hub", revision: "absent" } } };
    const { body } = await api.call("POST", "/v1/evaluations", { body: request, headers: { Prefer: "wait=60" } });
    assert.equal(body.status, "failed");
    assert.equal(body.error.code, "not_found");
    assert.match(body.error.message, /baber\/piqa/);
  });

  test("a file of the directory goes before the hub's, and a wrong one says what is wanted", async () => {
    const folder = join(api.settings.benchmarksDir, "piqa");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "validation.jsonl"), JSON.stringify({ goal: "G", sol1: "a", label: 0 }));
    const found = await piqaOf();
    assert.deepEqual([found.directory, found.available], ["validation.jsonl", true]);
    const request = { checkpoint: "base", tasks: ["piqa"] };
    const { body } = await api.call("POST", "/v1/evaluations", { body: request, headers: { Prefer: "wait=60" } });
    assert.equal(body.error.code, "dataset_invalid");
    assert.match(
      body.error.message,
      /piqa line 1: field "sol2" missing \(wanted is .*validation split of baber\/piqa\)/,
    );
  });
});
