/** The service on a real port: a tus client, streams that break, the documentation in a browser, and stopping. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";
import { Upload } from "tus-js-client";
import { startServer, type RunningServer } from "../../src/api/listen.ts";
import { parseSettings } from "../../src/engine/settings.ts";
import { tinySource } from "./helpers/harness.ts";

const chromiumPath = "/usr/bin/chromium";
const dataDir = mkdtempSync(join(tmpdir(), "cambium-listen-"));
const environment = { DATA_DIR: dataDir, PORT: "0", LOG_LEVEL: "silent", MAX_UPLOAD_BYTES: "50000000" };

describe("a listening server", () => {
  let server: RunningServer;
  before(async () => {
    server = await startServer(parseSettings(environment));
  });
  after(async () => {
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  });

  const post = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
    const init = {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
    };
    const response = await fetch(server.url + path, init);
    return { status: response.status, body: await response.json() };
  };

  /** Uploads with the tus client. @returns the id */
  const upload = (
    file: Buffer,
    filename: string,
    options: { chunkSize?: number; stopAfter?: number; url?: string } = {},
  ) =>
    new Promise<string>((resolve, reject) => {
      const client = new Upload(file, {
        endpoint: `${server.url}/v1/uploads`,
        metadata: { filename },
        retryDelays: null,
        ...(options.chunkSize ? { chunkSize: options.chunkSize } : {}),
        ...(options.url ? { uploadUrl: options.url } : {}),
        onError: reject,
        onSuccess: () => resolve(client.url!.split("/").at(-1)!),
        onChunkComplete: (_size, accepted) => {
          if (options.stopAfter === undefined || accepted < options.stopAfter) return;
          void client.abort().then(() => resolve(client.url!.split("/").at(-1)!));
        },
      });
      client.start();
    });

  test("tus: an upload that was broken off is resumed and becomes a dataset", async () => {
    const text = Buffer.from("All happy families are alike. ".repeat(20_000));
    const id = await upload(text, "corpus.txt", { chunkSize: 100_000, stopAfter: 200_000 });
    assert.match(id, /^upl_[0-9a-f]{32}$/);
    const state = await (await fetch(`${server.url}/v1/uploads/${id}`)).json();
    assert.deepEqual([state.filename, state.size_bytes, state.complete], ["corpus.txt", text.length, false]);
    assert.ok(state.offset_bytes >= 200_000 && state.offset_bytes < text.length);
    const early = await post("/v1/datasets", {
      name: "early",
      source: { type: "upload", upload: id },
      tokenizer: "bytes",
    });
    assert.equal(early.status, 409);
    assert.equal(await upload(text, "corpus.txt", { url: `${server.url}/v1/uploads/${id}` }), id);
    const head = await fetch(`${server.url}/v1/uploads/${id}`, {
      method: "HEAD",
      headers: { "Tus-Resumable": "1.0.0" },
    });
    assert.equal(head.headers.get("upload-offset"), String(text.length));
    const request = {
      name: "happy",
      source: { type: "upload", upload: id },
      tokenizer: "bytes",
      validation_fraction: 0,
    };
    const job = await post("/v1/datasets", request, { Prefer: "wait=60" });
    assert.equal(job.body.status, "succeeded", JSON.stringify(job.body.error));
    const dataset = await (await fetch(`${server.url}/v1/datasets/happy`)).json();
    assert.equal(dataset.num_tokens, text.length + 1);
  });

  test("tus: the files of a checkpoint, one broken off and resumed, become a checkpoint that downloads alike", async () => {
    const made = await post("/v1/checkpoints", { name: "source", source: tinySource }, { Prefer: "wait=60" });
    assert.equal(made.body.status, "succeeded", JSON.stringify(made.body.error));
    const file = async (checkpoint: string, name: string): Promise<Buffer> => {
      const response = await fetch(`${server.url}/v1/checkpoints/${checkpoint}/files/${name}`);
      return Buffer.from(await response.arrayBuffer());
    };
    const weights = await file("source", "model.safetensors");
    const half = await upload(weights, "model.safetensors", { chunkSize: 10_000, stopAfter: 20_000 });
    const ids = [
      await upload(await file("source", "config.json"), "config.json"),
      await upload(weights, "model.safetensors", { url: `${server.url}/v1/uploads/${half}` }),
    ];
    const request = { name: "uploaded", source: { type: "upload", upload: ids } };
    const job = await post("/v1/checkpoints", request, { Prefer: "wait=60" });
    assert.equal(job.body.status, "succeeded", JSON.stringify(job.body.error));
    assert.deepEqual(await file("uploaded", "model.safetensors"), weights);
    const digestOf = async (name: string) =>
      (await (await fetch(`${server.url}/v1/checkpoints/${name}`)).json()).digest;
    assert.equal(await digestOf("uploaded"), await digestOf("source"));
  });

  test("tus: names that are no plain names of allowed kinds, sizes beyond the limit, wrong steps", async () => {
    const begin = (filename: string, length = "10", more: Record<string, string> = {}) =>
      fetch(`${server.url}/v1/uploads`, {
        method: "POST",
        headers: {
          "Tus-Resumable": "1.0.0",
          "Upload-Length": length,
          "Upload-Metadata": `filename ${Buffer.from(filename).toString("base64")}`,
          ...more,
        },
      });
    for (const name of [
      "../model.safetensors",
      "a/b.json",
      "model.bin",
      "run.sh",
      ".json",
      "x\0.txt",
      "",
      "a".repeat(300) + ".txt",
    ]) {
      const answer = await begin(name);
      assert.deepEqual([answer.status, (await answer.json()).code], [400, "invalid_request"], name);
    }
    assert.equal((await (await begin("a.txt", "50000001")).json()).code, "payload_too_large");
    assert.equal((await begin("a.txt", "10", { "Tus-Resumable": "0.2.1" })).status, 400);
    const key = { "Idempotency-Key": "upload-1" };
    const [one, two] = [await begin("a.txt", "10", key), await begin("a.txt", "10", key)];
    assert.equal(one.status, 201);
    assert.equal(two.headers.get("location"), one.headers.get("location"));
    const url = server.url + one.headers.get("location");
    const patch = (headers: Record<string, string>, body: string) =>
      fetch(url, {
        method: "PATCH",
        headers: { "Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", ...headers },
        body,
      });
    assert.equal((await (await patch({ "Upload-Offset": "5" }, "12345")).json()).code, "conflict");
    assert.equal(
      (await (await patch({ "Upload-Offset": "0", "Content-Type": "text/plain" }, "x")).json()).code,
      "unsupported_media_type",
    );
    assert.equal((await (await patch({ "Upload-Offset": "0" }, "x".repeat(11))).json()).code, "payload_too_large");
    assert.equal((await fetch(url, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } })).status, 204);
    assert.equal((await fetch(url)).status, 404);
    assert.match(
      (await fetch(`${server.url}/v1/uploads`, { method: "OPTIONS" })).headers.get("tus-extension") ?? "",
      /creation/,
    );
  });

  test("a download that the client breaks off closes its file, and HEAD tells its length", async () => {
    const config = {
      ...tinySource.config,
      hidden_size: 512,
      intermediate_size: 1024,
      num_hidden_layers: 4,
      num_attention_heads: 8,
      num_key_value_heads: 8,
    };
    const job = await post("/v1/checkpoints", { source: { ...tinySource, config } }, { Prefer: "wait=60" });
    const url = `${server.url}/v1/checkpoints/${job.body.result.checkpoint}/files/model.safetensors`;
    const head = await fetch(url, { method: "HEAD" });
    const size = Number(head.headers.get("content-length"));
    assert.ok(size > 10_000_000, `${size}`);
    const response = await fetch(url);
    const reader = response.body!.getReader();
    await reader.read();
    await reader.cancel();
    const whole = await (await fetch(url)).arrayBuffer();
    assert.equal(whole.byteLength, size);
  });

  test("an event stream whose client vanishes is given up, and others go on", async () => {
    const job = (await post("/v1/checkpoints", { source: tinySource })).body;
    const aborted = new AbortController();
    const options = { headers: { Accept: "text/event-stream" }, signal: aborted.signal };
    const stream = await fetch(`${server.url}/v1/jobs/${job.id}/events`, options);
    await stream.body!.getReader().read();
    aborted.abort();
    const other = await fetch(`${server.url}/v1/jobs/${job.id}/events`, { headers: { Accept: "text/event-stream" } });
    assert.match(await other.text(), /"status":"succeeded"/);
  });

  test("bytes that are no HTTP, and headers without end, do not reach the app", async () => {
    const { port, hostname } = new URL(server.url);
    const answerTo = (bytes: string) =>
      new Promise<string>((resolve, reject) => {
        const socket = connect(Number(port), hostname, () => socket.write(bytes));
        let text = "";
        socket.on("data", (chunk) => (text += chunk.toString()));
        socket.on("close", () => resolve(text));
        socket.on("error", reject);
      });
    assert.match(await answerTo("hello\r\n\r\n"), /^HTTP\/1.1 400/);
    assert.match(
      await answerTo(`GET / HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(20_000)}\r\n\r\n`),
      /^HTTP\/1.1 431/,
    );
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  });

  test("a body beyond the limit is refused with 413, and the connection is no worse for it", async () => {
    for (let i = 0; i < 3; i++) {
      const { status, body } = await post("/v1/datasets", {
        name: "x",
        source: { type: "text", text: "x".repeat(12_000_000) },
      });
      assert.deepEqual([status, body.code], [413, "payload_too_large"]);
    }
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  });

  const noBrowser = existsSync(chromiumPath) ? false : `${chromiumPath} is not installed`;
  test("a browser shows every operation of /docs, without an error in its console", { skip: noBrowser }, async () => {
    const args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"];
    const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
    const browser = await chromium.launch({ executablePath: chromiumPath, args: [...args, ...quiet] });
    try {
      const page = await browser.newPage();
      const errors: string[] = [];
      const elsewhere: string[] = [];
      page.on("console", (message) => {
        if (message.type() === "error") errors.push(message.text());
      });
      page.on("pageerror", (error) => errors.push(error.message));
      page.on("request", (request) => {
        if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) elsewhere.push(request.url());
      });
      await page.goto(`${server.url}/docs`);
      await page.waitForSelector("#operations-training-createTraining", { timeout: 30_000 });
      const shown = await page.locator(".opblock").count();
      assert.ok(shown >= 45, `${shown} operations`);
      await page.click("#operations-service-getHealth .opblock-summary-control");
      await page.click("#operations-service-getHealth .try-out__btn");
      await page.click("#operations-service-getHealth .execute");
      await page.waitForSelector("#operations-service-getHealth .live-responses-table", { timeout: 10_000 });
      assert.match(
        await page.locator("#operations-service-getHealth .live-responses-table").innerText(),
        /"status": "ok"/,
      );
      assert.deepEqual([errors, elsewhere], [[], []]);
    } finally {
      await browser.close();
    }
  });

  test("a second server on the same data directory is refused", async () => {
    await assert.rejects(startServer(parseSettings(environment)), { code: "data_dir_locked" });
  });

  test("stopping ends open streams and held answers, refuses new ones, and frees the directory", async () => {
    const source = { ...tinySource, seed: 2 };
    await post("/v1/checkpoints", { name: "base", source }, { Prefer: "wait=60" });
    await post(
      "/v1/datasets",
      {
        name: "text",
        source: { type: "text", text: "abc ".repeat(4_000) },
        tokenizer: "bytes",
        validation_fraction: 0,
      },
      { Prefer: "wait=60" },
    );
    const training = { checkpoint: "base", dataset: "text", tokens: 16_000_000, batch_tokens: 32, sequence_length: 16 };
    const held = post("/v1/trainings", training, { Prefer: "wait=300" });
    await sleep(500);
    const [job] = (await (await fetch(`${server.url}/v1/jobs?kind=training`)).json()).data;
    const stream = await fetch(`${server.url}/v1/jobs/${job.id}/events`, { headers: { Accept: "text/event-stream" } });
    const text = stream.text();
    // Its model is being loaded.
    const completion = post("/v1/completions", { model: "base", prompt: "a", max_tokens: 50 });
    await sleep(100);
    await server.close();
    assert.equal((await held).status, 202);
    const refused = await completion;
    assert.deepEqual(
      [refused.status, refused.body.code, refused.body.detail],
      [503, "unavailable", "the server is stopping"],
    );
    assert.match(await text, /^id: 1\n/);
    await assert.rejects(fetch(`${server.url}/healthz`));
    // with other machines in reach it refuses to listen, since there is no key; then it opens the same data again
    const message = /npm run keys -- create/;
    await assert.rejects(startServer(parseSettings({ ...environment, HOST: "0.0.0.0" })), {
      code: "forbidden",
      message,
    });
    server = await startServer(parseSettings(environment));
    const after = await (await fetch(`${server.url}/v1/jobs/${job.id}`)).json();
    assert.ok(["queued", "running"].includes(after.status), after.status);
    await post(`/v1/jobs/${job.id}/cancel`, {}, { Prefer: "wait=60" });
  });
});
