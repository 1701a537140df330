/** Blobs by digest over HTTP: what workers read and give back, and everything that a wrong or hostile one may send. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { assertProblem, startHarness, type Answer, type Harness } from "../helpers/harness.ts";
import { putBlob, temporaryFolder } from "../../engine/store/fixtures.ts";

const digestOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

describe("blobs over HTTP", () => {
  let api: Harness;
  before(async () => (api = await startHarness({ environment: { MAX_UPLOAD_BYTES: "4000000" } })));
  after(() => api.close());

  const put = async (digest: string, range: string, body: Uint8Array = new Uint8Array()): Promise<Answer> => {
    const headers = { "Content-Range": range, "Content-Type": "application/octet-stream" };
    const init = { method: "PUT", headers, body: body as Uint8Array<ArrayBuffer> };
    const response = await api.fetch(`/v1/blobs/${digest}`, init);
    return { status: response.status, headers: response.headers, body: await response.json() };
  };
  const unfinished = () => readdirSync(join(api.settings.blobDir, "tmp")).filter((name) => name.endsWith(".part"));

  test("sent in pieces, in order and repeated, a blob is there when it is whole, and not before", async () => {
    const bytes = randomBytes(300_000);
    const digest = digestOf(bytes);
    const state = (offset_bytes: number, complete: boolean) => ({
      digest,
      size_bytes: 300_000,
      offset_bytes,
      complete,
    });
    assert.deepEqual((await put(digest, "bytes */300000")).body, state(0, false));
    const first = bytes.subarray(0, 100_000);
    assert.deepEqual((await put(digest, "bytes 0-99999/300000", first)).body, state(100_000, false));
    assert.deepEqual(
      (await put(digest, "bytes 50000-99999/300000", first.subarray(50_000))).body,
      state(100_000, false),
    );
    assertProblem(await api.call("GET", `/v1/blobs/${digest}`), 404, "not_found");
    assert.deepEqual((await put(digest, "bytes */300000")).body, state(100_000, false));
    assertProblem(await put(digest, "bytes 200000-299999/300000", bytes.subarray(200_000)), 409, "conflict");
    assert.deepEqual(
      (await put(digest, "bytes 100000-299999/300000", bytes.subarray(100_000))).body,
      state(300_000, true),
    );
    assert.deepEqual((await put(digest, "bytes */300000")).body, state(300_000, true));
    assert.deepEqual(unfinished(), []);
    const response = await api.fetch(`/v1/blobs/${digest}`);
    assert.equal(response.headers.get("etag"), `"${digest}"`);
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), bytes);
    const range = await api.fetch(`/v1/blobs/${digest}`, { headers: { Range: "bytes=299990-" } });
    assert.equal(range.status, 206);
    assert.equal(range.headers.get("content-range"), "bytes 299990-299999/300000");
    assert.deepEqual(Buffer.from(await range.arrayBuffer()), bytes.subarray(299_990));
    const head = await api.fetch(`/v1/blobs/${digest}`, { method: "HEAD" });
    assert.equal(head.headers.get("content-length"), "300000");
    assert.equal((await head.arrayBuffer()).byteLength, 0);
    const beyond = await api.call("GET", `/v1/blobs/${digest}`, { headers: { Range: "bytes=300000-" } });
    assertProblem(beyond, 416, "range_not_satisfiable");
  });

  test("the empty blob is a blob", async () => {
    const digest = digestOf(new Uint8Array());
    assert.equal((await put(digest, "bytes */0")).body.complete, true);
    assert.equal((await (await api.fetch(`/v1/blobs/${digest}`)).arrayBuffer()).byteLength, 0);
  });

  test("bytes with another digest are refused, and nothing of them is left", async () => {
    const bytes = randomBytes(1_000);
    const promised = digestOf(randomBytes(1));
    assertProblem(await put(promised, "bytes 0-999/1000", bytes), 422, "unprocessable");
    assert.equal(existsSync(blobPath(api.settings.blobDir, promised)), false);
    assert.deepEqual(unfinished(), []);
    // the right bytes under a wrong length are not the blob either
    assertProblem(await put(digestOf(bytes), "bytes 0-998/999", bytes.subarray(0, 999)), 422, "unprocessable");
    assert.equal((await put(digestOf(bytes), "bytes 0-999/1000", bytes)).body.complete, true);
    assertProblem(await put(digestOf(bytes), "bytes */1001"), 422, "unprocessable");
  });

  test("a body shorter or longer than its range is refused; what is right of it can be gone on with", async () => {
    const bytes = randomBytes(2_000);
    const digest = digestOf(bytes);
    assertProblem(await put(digest, "bytes 0-1999/2000", bytes.subarray(0, 1_500)), 400, "invalid_request");
    assertProblem(await put(digest, "bytes 0-99/2000", bytes.subarray(0, 500)), 413, "payload_too_large");
    const { body } = await put(digest, "bytes */2000");
    assert.ok(body.offset_bytes <= 1_500);
    const rest = bytes.subarray(body.offset_bytes);
    assert.equal((await put(digest, `bytes ${body.offset_bytes}-1999/2000`, rest)).body.complete, true);
  });

  test("too much is refused before a byte is written", async () => {
    const digest = digestOf(randomBytes(1));
    assertProblem(await put(digest, "bytes 0-9/4000001", randomBytes(10)), 413, "payload_too_large");
    assertProblem(await put(digest, "bytes */900000000000000"), 413, "payload_too_large");
    assert.deepEqual(unfinished(), []);
  });

  test("a path that is no digest, and a header that is no range, are refused", async () => {
    const digest = digestOf(randomBytes(1));
    const tricks = ["..%2f..%2fetc%2fpasswd", "%2e%2e", digest.toUpperCase(), `${digest}.part`, `${digest}%00`, "tmp"];
    for (const trick of tricks) {
      for (const method of ["GET", "PUT"]) {
        const headers = method === "PUT" ? { "Content-Range": "bytes */0" } : {};
        const { status } = await api.call(method, `/v1/blobs/${trick}`, { headers });
        assert.ok(status === 400 || status === 404, `${method} ${trick}: ${status}`);
      }
    }
    for (const range of [
      "bytes 5-4/10",
      "bytes 0-10/10",
      "bytes 0-9/*",
      "items 0-9/10",
      "bytes=0-9/10",
      "bytes -1-2/3",
    ])
      assertProblem(await put(digest, range), 400, "invalid_request");
    assertProblem(await api.call("PUT", `/v1/blobs/${digest}`), 400, "invalid_request");
  });

  test("a file registered by reference is read where it lies, until it changes", async () => {
    const { store, settings } = { store: api.services.store, settings: api.settings };
    const folder = temporaryFolder();
    const path = join(folder, "model.safetensors");
    writeFileSync(path, "weights that lie elsewhere");
    const time = new Date("2026-01-01T00:00:00Z");
    utimesSync(path, time, time);
    const digest = digestOf(Buffer.from("weights that lie elsewhere"));
    const own = putBlob(settings.blobDir, "an own file");
    await store.datasets.create({
      ...{ name: "d", metadata: {}, job: null },
      manifest: {
        ...{ tokenizer: { kind: "bytes" }, vocabSize: 258, eosTokenId: 257, tokenDtype: "u16", validation: [] },
        ...{ train: [{ blob: digest, numTokens: 2 }], numTokens: 2, numValidationTokens: 0 },
        ...{ numDocuments: 1, numValidationDocuments: 0, digest: "e".repeat(64) },
      },
      blobs: [
        { digest, sizeBytes: 26, external: { path, mtimeMs: time.getTime() } },
        { ...own, external: null },
      ],
    });
    assert.equal(await (await api.fetch(`/v1/blobs/${digest}`)).text(), "weights that lie elsewhere");
    writeFileSync(path, "weights that were changed!");
    assertProblem(await api.call("GET", `/v1/blobs/${digest}`), 409, "source_changed");
  });

  test("only a key with the scope worker, or admin, reads and writes blobs, and such a key does nothing else", async () => {
    const secrets: Record<string, string> = {};
    for (const scope of ["admin", "worker", "write"]) {
      const headers: Record<string, string> = scope === "admin" ? {} : { Authorization: `Bearer ${secrets["admin"]}` };
      const made = await api.call("POST", "/v1/keys", { body: { name: scope, scopes: [scope] }, headers });
      assert.equal(made.status, 201);
      secrets[scope] = made.body.secret;
    }
    const digest = digestOf(randomBytes(1));
    const status = async (scope: string, path: string) => {
      return (await api.call("GET", path, { headers: { Authorization: `Bearer ${secrets[scope]}` } })).status;
    };
    assert.equal((await api.call("GET", `/v1/blobs/${digest}`)).status, 401);
    assert.equal(await status("write", `/v1/blobs/${digest}`), 403);
    assert.equal(await status("worker", `/v1/blobs/${digest}`), 404);
    assert.equal(await status("admin", `/v1/blobs/${digest}`), 404);
    assert.equal(await status("worker", "/v1/jobs"), 403);
  });
});
