/** Checkpoints over HTTP, by status, on the real store with real compute processes. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { assertProblem, startHarness, tinyConfig, tinySource, type Harness } from "../helpers/harness.ts";

describe("checkpoints", () => {
  let api: Harness;
  let base: string;
  let grown: string;

  before(async () => {
    api = await startHarness();
    base = (await api.work("/v1/checkpoints", { name: "base", source: tinySource, metadata: { purpose: "test" } }))
      .result.checkpoint;
    const growth = { checkpoint: base, operator: "direct", axis: "depth", factor: 2, name: "grown" };
    grown = (await api.work("/v1/growths", growth)).result.checkpoint;
  });
  after(() => api.close());

  test("200: a random checkpoint shows its counts, digest and tokenizer", async () => {
    const { status, body, headers } = await api.call("GET", `/v1/checkpoints/${base}`);
    assert.equal(status, 200);
    assert.equal(body.name, "base");
    assert.equal(body.relation, "initialized");
    assert.equal(body.tokenizer, "bytes");
    // 258 x 16 embedding and head (untied by default), two layers of 16x16x2 + 8x16x2 + 3x32x16 + 2x16, final norm
    assert.equal(body.num_parameters, 2 * 258 * 16 + 2 * (2 * 256 + 2 * 128 + 3 * 512 + 32) + 16);
    assert.equal(body.size_bytes, 4 * body.num_parameters);
    assert.deepEqual(body.metadata, { purpose: "test" });
    assert.match(headers.get("etag") ?? "", /^"[\w-]+"$/);
  });

  test("a checkpoint is found by its name too, and never by the name of another kind", async () => {
    assert.equal((await api.call("GET", "/v1/checkpoints/base")).body.id, base);
    assertProblem(await api.call("GET", "/v1/checkpoints/nobody"), 404, "not_found");
  });

  test("304: the ETag of an unchanged checkpoint", async () => {
    const { headers } = await api.call("GET", `/v1/checkpoints/${base}`);
    const again = await api.call("GET", `/v1/checkpoints/${base}`, {
      headers: { "If-None-Match": headers.get("etag") ?? "" },
    });
    assert.equal(again.status, 304);
    assert.equal(again.body, "");
  });

  test("lists go newest first, page by page, with filters", async () => {
    const first = await api.call("GET", "/v1/checkpoints?limit=1");
    assert.deepEqual(
      first.body.data.map((row: { id: string }) => row.id),
      [grown],
    );
    assert.equal(first.body.has_more, true);
    const second = await api.call("GET", `/v1/checkpoints?limit=1&after=${first.body.next}`);
    assert.deepEqual(
      second.body.data.map((row: { id: string }) => row.id),
      [base],
    );
    assert.deepEqual([second.body.has_more, second.body.next], [false, null]);
    const ids = async (query: string) =>
      (await api.call("GET", `/v1/checkpoints?${query}`)).body.data.map((row: { id: string }) => row.id);
    assert.deepEqual(await ids("name=base"), [base]);
    assert.deepEqual(await ids("relation=grown"), [grown]);
    assert.deepEqual(await ids(`parent=${base}`), [grown]);
    assert.deepEqual(await ids("relation=trained"), []);
  });

  test("400: a cursor that no page gave, a limit out of range, an unknown parameter", async () => {
    const wrong = ["after=x", "limit=0", "limit=101", "limit=ten", "order=asc", "limit=1&limit=2", "parent=base"];
    for (const query of wrong) assertProblem(await api.call("GET", `/v1/checkpoints?${query}`), 400, "invalid_request");
  });

  test("lineage has every ancestor and descendant, with edges", async () => {
    for (const id of [base, grown]) {
      const { body } = await api.call("GET", `/v1/checkpoints/${id}/lineage`);
      assert.deepEqual(
        body.nodes.map((node: { id: string }) => node.id),
        [base, grown],
      );
      assert.deepEqual(body.edges, [{ parent: base, child: grown, relation: "grown" }]);
    }
  });

  test("tensors are paged in the model's order, and a stacked layer shares its bytes", async () => {
    const all = (await api.call("GET", `/v1/checkpoints/${grown}/tensors`)).body;
    assert.equal(all.has_more, false);
    assert.equal(all.data[0].name, "model.embed_tokens.weight");
    assert.ok(all.data.every((tensor: { shared: boolean }) => tensor.shared));
    const sha = (name: string) => all.data.find((tensor: { name: string }) => tensor.name === name).sha256;
    assert.equal(sha("model.layers.0.mlp.up_proj.weight"), sha("model.layers.2.mlp.up_proj.weight"));
    const page = (await api.call("GET", `/v1/checkpoints/${grown}/tensors?limit=5&after=5`)).body;
    assert.deepEqual(page.data, all.data.slice(5, 10));
    assert.equal(page.next, "10");
    assertProblem(await api.call("GET", `/v1/checkpoints/${grown}/tensors?after=abc`), 400, "invalid_request");
  });

  test("PATCH renames under If-Match, refuses a stale one (412), and wants something to do (400)", async () => {
    const path = `/v1/checkpoints/${grown}`;
    const etag = (await api.call("GET", path)).headers.get("etag") ?? "";
    const renamed = await api.call("PATCH", path, { body: { name: "taller" }, headers: { "If-Match": etag } });
    assert.equal(renamed.status, 200);
    assert.equal(renamed.body.name, "taller");
    assert.equal(renamed.headers.get("etag"), (await api.call("GET", path)).headers.get("etag"));
    assertProblem(
      await api.call("PATCH", path, { body: { name: "x" }, headers: { "If-Match": etag } }),
      412,
      "precondition_failed",
    );
    assertProblem(await api.call("PATCH", path, { body: {} }), 400, "invalid_request");
    assertProblem(await api.call("PATCH", path, { body: { digest: "0" } }), 400, "invalid_request");
    assert.equal((await api.call("PATCH", path, { body: { name: null, metadata: { a: [1] } } })).body.name, null);
    assertProblem(await api.call("PATCH", "/v1/checkpoints/nobody", { body: { name: "x" } }), 404, "not_found");
  });

  test("files: list, whole, HEAD and 304 agree with each other and with config.json", async () => {
    const { body } = await api.call("GET", `/v1/checkpoints/${base}/files`);
    const weights = body.data.find((file: { name: string }) => file.name === "model.safetensors");
    const path = `/v1/checkpoints/${base}/files/model.safetensors`;
    const whole = await api.fetch(path);
    const bytes = Buffer.from(await whole.arrayBuffer());
    assert.equal(bytes.length, weights.size_bytes);
    assert.equal(whole.headers.get("etag"), weights.etag);
    assert.equal(whole.headers.get("content-length"), String(bytes.length));
    const head = await api.fetch(path, { method: "HEAD" });
    assert.deepEqual(
      [head.status, head.headers.get("content-length"), await head.text()],
      [200, String(bytes.length), ""],
    );
    assert.equal((await api.fetch(path, { headers: { "If-None-Match": weights.etag } })).status, 304);
    const config = JSON.parse(await (await api.fetch(`/v1/checkpoints/${base}/files/config.json`)).text());
    assert.equal(config.hidden_size, tinyConfig.hidden_size);
    const tensor = (await api.call("GET", `/v1/checkpoints/${base}/tensors?limit=1`)).body.data[0];
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString());
    const [from, to] = header[tensor.name].data_offsets;
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    assert.equal(
      createHash("sha256")
        .update(bytes.subarray(start + from, start + to))
        .digest("hex"),
      tensor.sha256,
    );
  });

  test("206 and 416: single ranges of a file, and If-Range", async () => {
    const path = `/v1/checkpoints/${base}/files/model.safetensors`;
    const bytes = Buffer.from(await (await api.fetch(path)).arrayBuffer());
    const part = async (headers: Record<string, string>) => {
      const response = await api.fetch(path, { headers });
      return { response, bytes: Buffer.from(await response.arrayBuffer()) };
    };
    for (const [range, from, to] of [
      ["bytes=0-0", 0, 1],
      ["bytes=10-99", 10, 100],
      ["bytes=100-", 100, bytes.length],
      ["bytes=-7", bytes.length - 7, bytes.length],
      [`bytes=5-${10 ** 9}`, 5, bytes.length],
    ] as const) {
      const got = await part({ Range: range });
      assert.equal(got.response.status, 206, range);
      assert.deepEqual(got.bytes, bytes.subarray(from, to), range);
      assert.equal(got.response.headers.get("content-range"), `bytes ${from}-${to - 1}/${bytes.length}`);
    }
    const etag = (await api.fetch(path, { method: "HEAD" })).headers.get("etag") ?? "";
    assert.equal((await part({ Range: "bytes=0-1", "If-Range": etag })).response.status, 206);
    assert.equal((await part({ Range: "bytes=0-1", "If-Range": '"other"' })).response.status, 200);
    for (const ignored of ["bytes=5-2", "lines=1-2", "bytes=0-1,3-4", "bytes=-"])
      assert.equal((await part({ Range: ignored })).response.status, 200);
    assertProblem(
      await api.call("GET", path, { headers: { Range: `bytes=${bytes.length}-` } }),
      416,
      "range_not_satisfiable",
    );
    assertProblem(await api.call("GET", path, { headers: { Range: "bytes=-0" } }), 416, "range_not_satisfiable");
  });

  test("404: a file that is not of the layout, however it is spelled", async () => {
    for (const name of ["other.bin", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "__proto__"]) {
      assertProblem(await api.call("GET", `/v1/checkpoints/${base}/files/${name}`), 404, "not_found");
    }
  });

  test("refused sources name the field: outside the roots, not a Llama, unknown kind, unknown upload", async () => {
    const post = (source: unknown) => api.call("POST", "/v1/checkpoints", { body: { source } });
    assertProblem(await post({ type: "directory", path: "/etc" }), 403, "forbidden");
    assertProblem(await post({ type: "directory", path: "../.." }), 400, "invalid_request");
    const gpt = await post({ type: "random", config: { ...tinyConfig, model_type: "gpt2" } });
    assertProblem(gpt, 400, "invalid_request");
    assert.equal(gpt.body.errors[0].pointer, "/source/config/model_type");
    const narrow = await post({ type: "random", tokenizer: "bytes", config: { ...tinyConfig, vocab_size: 257 } });
    assertProblem(narrow, 422, "unprocessable");
    assert.equal(narrow.body.errors[0].pointer, "/source/config/vocab_size");
    const odd = await post({ type: "random", config: { ...tinyConfig, num_attention_heads: 3 } });
    assert.equal(odd.status < 500, true);
    const tar = await post({ type: "tar", path: "x" });
    assertProblem(tar, 400, "invalid_request");
    assert.deepEqual(tar.body.errors[0], {
      pointer: "/source/type",
      detail: 'got "tar", want one of directory, upload, hub, random',
    });
    assertProblem(await post({ type: "upload", upload: `upl_${"0".repeat(32)}` }), 404, "not_found");
  });

  test("409 without cascade, 412 with a stale If-Match, then the whole family is deleted", async () => {
    assertProblem(await api.call("DELETE", `/v1/checkpoints/${base}`), 409, "conflict");
    const stale = { headers: { "If-Match": '"stale"' } };
    assertProblem(await api.call("DELETE", `/v1/checkpoints/${base}?cascade=true`, stale), 412, "precondition_failed");
    const gone = await api.call("DELETE", `/v1/checkpoints/${base}?cascade=true`);
    assert.deepEqual(gone.body.deleted.toSorted(), [base, grown].toSorted());
    assertProblem(await api.call("GET", `/v1/checkpoints/${base}`), 404, "not_found");
    assertProblem(await api.call("DELETE", `/v1/checkpoints/${base}`), 404, "not_found");
  });
});
