/**
 * Blobs of a worker without the shared directory, between two real folders over real HTTP: fetched and sent whole,
 * checked, gone on with after cuts; and a directory that stays within its bound without losing what a job holds.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { startServer, type RunningServer } from "../../../src/api/listen.ts";
import { createBlobClient, type BlobClient } from "../../../src/engine/checkpoint/blobClient.ts";
import { blobPath, temporaryDir } from "../../../src/engine/checkpoint/blobs.ts";
import { openBlobCache } from "../../../src/engine/jobs/blobCache.ts";
import { createLog } from "../../../src/engine/log.ts";
import { parseSettings } from "../../../src/engine/settings.ts";
import type { NewBlob } from "../../../src/ops/events.ts";
import { putBlob, temporaryFolder } from "../store/fixtures.ts";

const signal = new AbortController().signal;

describe("blobs between a server and a worker", () => {
  let server: RunningServer;
  let proxy: Server;
  /** What becomes of the next answers: how many body bytes pass before the connection is cut, or a wrong byte. */
  const faults: ("cut" | "corrupt" | "refuse")[] = [];
  let requests: string[] = [];
  let client: BlobClient;
  const dataDir = temporaryFolder();
  let cacheDir: string;

  before(async () => {
    const settings = parseSettings({ DATA_DIR: dataDir, PORT: "0", LOG_LEVEL: "silent" });
    server = await startServer(settings, { services: { log: createLog("silent") } });
    proxy = createServer((incoming, outgoing) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.on("end", () => void forward(incoming, Buffer.concat(chunks), outgoing));
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const { port } = proxy.address() as AddressInfo;
    client = createBlobClient({ endpoint: `http://127.0.0.1:${port}`, key: null, backoffMs: 5 });
  });
  after(async () => {
    proxy.close();
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  });
  beforeEach(() => {
    cacheDir = temporaryFolder();
    faults.length = 0;
    requests = [];
  });

  async function forward({ url, method, headers }: Incoming, body: Buffer, outgoing: ServerResponse): Promise<void> {
    const fault = faults.shift();
    requests.push(`${method} ${String(headers["range"] ?? headers["content-range"] ?? "")}`);
    if (fault === "refuse") return void outgoing.writeHead(503).end('{"code":"unavailable","detail":"busy"}');
    if (fault === "cut" && method === "PUT") return void outgoing.destroy();
    const kept = ["range", "content-range", "content-type", "authorization"].filter((name) => headers[name]);
    const sent = Object.fromEntries(kept.map((name) => [name, String(headers[name])]));
    const init = method === "PUT" ? { body: new Uint8Array(body) } : {};
    const answer = await fetch(server.url + url, { method: method ?? "GET", headers: sent, ...init });
    const bytes = Buffer.from(await answer.arrayBuffer());
    if (fault === "corrupt") bytes[0] = (bytes[0] ?? 0) ^ 1;
    outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
    if (fault !== "cut") return void outgoing.end(bytes);
    outgoing.write(bytes.subarray(0, bytes.length >> 1), () => setTimeout(() => outgoing.destroy(), 20));
  }
  type Incoming = { url?: string | undefined; method?: string | undefined; headers: Record<string, unknown> };

  const serverDir = () => join(dataDir, "blobs");
  const isIn = (folder: string, { digest }: NewBlob) => existsSync(blobPath(folder, digest));
  const onServer = (size: number) => putBlob(serverDir(), randomBytes(size >> 1).toString("hex"));

  test("a blob is fetched whole and goes on after a cut, from the byte where it was cut", async () => {
    const blob = onServer(400_000);
    faults.push("refuse", "cut");
    await client.fetch(cacheDir, blob);
    assert.deepEqual(readFileSync(blobPath(cacheDir, blob.digest)), readFileSync(blobPath(serverDir(), blob.digest)));
    assert.equal(requests.length, 3);
    assert.match(requests[2] ?? "", /^GET bytes=[1-9]\d*-$/);
  });

  test("what an earlier process left is gone on with, and thrown away where it is wrong", async () => {
    const blob = onServer(10_000);
    const whole = readFileSync(blobPath(serverDir(), blob.digest));
    const part = join(temporaryDir(cacheDir), `${blob.digest}.part`);
    mkdirSync(temporaryDir(cacheDir), { recursive: true });
    writeFileSync(part, whole.subarray(0, 6_000));
    await client.fetch(cacheDir, blob);
    assert.deepEqual(requests, ["GET bytes=6000-"]);
    rmSync(blobPath(cacheDir, blob.digest));
    writeFileSync(part, Buffer.alloc(6_000));
    await client.fetch(cacheDir, blob);
    assert.ok(isIn(cacheDir, blob) && !existsSync(part));
  });

  test("bytes that are not what the digest says never become visible", async () => {
    const blob = onServer(1_000);
    faults.push("corrupt");
    await assert.rejects(client.fetch(cacheDir, blob), { code: "checkpoint_corrupt" });
    assert.ok(!isIn(cacheDir, blob));
    await assert.rejects(client.fetch(cacheDir, { ...blob, sizeBytes: 999 }), { code: "checkpoint_unsupported" });
    const unknown = { digest: "a".repeat(64), sizeBytes: 1 };
    await assert.rejects(client.fetch(cacheDir, unknown), { code: "not_found" });
  });

  test("a blob is sent, once, going on after cuts, and a server that stays away is an error that passes", async () => {
    const blob = putBlob(cacheDir, randomBytes(9_000_000).toString("hex"));
    assert.equal(await client.has(blob), false);
    faults.push("cut", "refuse");
    await client.send(cacheDir, blob);
    assert.deepEqual(readFileSync(blobPath(serverDir(), blob.digest)), readFileSync(blobPath(cacheDir, blob.digest)));
    requests = [];
    await client.send(cacheDir, blob);
    assert.deepEqual(requests, ["PUT bytes */18000000"]);
    assert.equal(await client.has(blob), true);
    faults.push(...Array.from({ length: 20 }, () => "refuse" as const));
    await assert.rejects(client.send(cacheDir, putBlob(cacheDir, "x")), { code: "unavailable" });
  });

  test("the cache stays within its bound: what was unused longest goes, never what a job holds or made", async () => {
    const [a, b, c] = [onServer(1_000), onServer(1_000), onServer(1_000)];
    const cache = await openBlobCache({ blobDir: cacheDir, client, maxBytes: 2_500 });
    (await cache.bring([a], signal))();
    const release = await cache.bring([b, b], signal);
    // older than the other, but held
    utimesSync(blobPath(cacheDir, b.digest), new Date(0), new Date(0));
    (await cache.bring([c], signal))();
    assert.deepEqual(
      [a, b, c].map((blob) => isIn(cacheDir, blob)),
      [false, true, true],
    );
    const made = putBlob(cacheDir, "z".repeat(1_000));
    utimesSync(blobPath(cacheDir, made.digest), new Date(0), new Date(0));
    await assert.rejects(cache.bring([onServer(1_500)], signal), { code: "storage_full", message: /BLOB_CACHE_BYTES/ });
    assert.ok(isIn(cacheDir, b) && isIn(cacheDir, made));
    release();
    await cache.deliver([made], signal);
    assert.ok(isIn(serverDir(), made));
    (await cache.bring([a], signal))();
    assert.ok(isIn(cacheDir, a));
    assert.ok([a, b, c, made].filter((blob) => isIn(cacheDir, blob)).length <= 2);
  });

  test("jobs that need one blob at the same time fetch it once", async () => {
    const blob = onServer(50_000);
    const cache = await openBlobCache({ blobDir: cacheDir, client, maxBytes: 1e9 });
    await Promise.all(Array.from({ length: 5 }, () => cache.bring([blob], signal)));
    assert.equal(requests.length, 1);
  });
});
