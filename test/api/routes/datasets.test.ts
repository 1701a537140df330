/** Datasets over HTTP, by status. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { assertProblem, startHarness, tinySource, type Harness } from "../helpers/harness.ts";

describe("datasets", () => {
  let api: Harness;
  let id: string;
  const documents = Array.from({ length: 50 }, (_, index) => `document ${index} says äöü`);

  before(async () => {
    api = await startHarness();
    const request = {
      name: "fifty",
      source: { type: "text", text: documents },
      tokenizer: "bytes",
      validation_fraction: 0.2,
      metadata: { a: 1 },
    };
    id = (await api.work("/v1/datasets", request)).result.dataset;
  });
  after(() => api.close());

  test("200: every byte and one end-of-text token per document is counted, and a part is held out", async () => {
    const { status, body } = await api.call("GET", `/v1/datasets/${id}`);
    assert.equal(status, 200);
    const bytes = documents.reduce((total, text) => total + Buffer.byteLength(text) + 1, 0);
    assert.equal(body.num_tokens + body.num_validation_tokens, bytes);
    assert.equal(body.num_documents + body.num_validation_documents, 50);
    assert.ok(body.num_validation_documents > 0 && body.num_validation_documents < 50);
    assert.deepEqual([body.tokenizer, body.vocab_size, body.eos_token_id], ["bytes", 258, 257]);
    assert.deepEqual(body.metadata, { a: 1 });
  });

  test("by name, in lists, and 304 by its ETag", async () => {
    assert.equal((await api.call("GET", "/v1/datasets/fifty")).body.id, id);
    const { body } = await api.call("GET", "/v1/datasets");
    assert.deepEqual(
      body.data.map((row: { id: string }) => row.id),
      [id],
    );
    const etag = (await api.call("GET", `/v1/datasets/${id}`)).headers.get("etag") ?? "";
    assert.equal(
      (await api.call("GET", `/v1/datasets/${id}`, { headers: { "If-None-Match": `"a", W/${etag}` } })).status,
      304,
    );
  });

  test("a directory below the import roots is read; the same text has the same digest", async () => {
    const folder = join(api.settings.importRoots[0]!, "texts");
    mkdirSync(folder, { recursive: true });
    for (const [index, text] of documents.entries())
      writeFileSync(join(folder, `${String(index).padStart(2, "0")}.txt`), text);
    const request = {
      name: "folder",
      source: { type: "directory", path: folder },
      tokenizer: "bytes",
      validation_fraction: 0.2,
    };
    const first = (await api.work("/v1/datasets", request)).result.dataset;
    const again = (await api.work("/v1/datasets", { ...request, name: "again" })).result.dataset;
    const digest = async (one: string) => (await api.call("GET", `/v1/datasets/${one}`)).body.digest;
    assert.equal(await digest(first), await digest(again));
  });

  test("refused before anything is queued: paths outside, unknown tokenizers, undeclared fields", async () => {
    const post = (change: object) => {
      const body = { name: "x", source: { type: "text", text: "x" }, tokenizer: "bytes", ...change };
      return api.call("POST", "/v1/datasets", { body });
    };
    assertProblem(await post({ source: { type: "directory", path: "/etc" } }), 403, "forbidden");
    assertProblem(await post({ tokenizer: { checkpoint: "nobody" } }), 404, "not_found");
    assertProblem(await post({ tokenizer: "words" }), 400, "invalid_request");
    assertProblem(await post({ validation_fraction: 0.9 }), 400, "invalid_request");
    assertProblem(await post({ shuffle: true }), 400, "invalid_request");
    await api.work("/v1/checkpoints", { name: "bytes", source: tinySource });
    const none = await post({ tokenizer: { checkpoint: "bytes" } });
    assert.ok([202, 422].includes(none.status), JSON.stringify(none.body));
  });

  test("a directory without text fails its job, and the failure names the cause", async () => {
    const folder = join(api.settings.importRoots[0]!, "empty");
    mkdirSync(folder, { recursive: true });
    const body = { name: "empty", source: { type: "directory", path: folder }, tokenizer: "bytes" };
    const { body: job } = await api.call("POST", "/v1/datasets", { body, headers: { Prefer: "wait=60" } });
    assert.equal(job.status, "failed");
    assert.equal(job.error.code, "dataset_invalid");
    assert.equal(job.result, null);
  });

  test("412 with a stale If-Match, then DELETE, then 404", async () => {
    const path = `/v1/datasets/${id}`;
    assertProblem(await api.call("DELETE", path, { headers: { "If-Match": '"stale"' } }), 412, "precondition_failed");
    const etag = (await api.call("GET", path)).headers.get("etag") ?? "";
    assert.deepEqual((await api.call("DELETE", path, { headers: { "If-Match": etag } })).body, { deleted: [id] });
    assertProblem(await api.call("GET", path), 404, "not_found");
    assertProblem(await api.call("DELETE", path), 404, "not_found");
  });
});
