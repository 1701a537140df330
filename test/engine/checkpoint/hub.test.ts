/** Imports from a hub: whole, resumed, refused, and never trusting what the hub or a redirect says. */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { importHub, type HubImport, type HubImportResult } from "../../../src/engine/checkpoint/hub.ts";
import { importDirectory } from "../../../src/engine/checkpoint/importers.ts";
import {
  rejectsWith,
  scratch,
  shardedFiles,
  shardNames,
  singleFiles,
  tinyConfig,
  writeFiles,
  type Files,
} from "./fixtures.ts";
import { commit, fakeHub, repository, type FakeHub, type Trouble } from "./hubServer.ts";

interface Setup {
  hub: FakeHub;
  dir: string;
  blobDir: string;
  run(options?: Partial<HubImport>): Promise<HubImportResult>;
}

async function setup(t: TestContext, files: Files = withExtras(singleFiles())): Promise<Setup> {
  const dir = await scratch(t);
  const hub = await fakeHub(t, files);
  const blobDir = join(dir, "blobs");
  const run = (options: Partial<HubImport> = {}) =>
    importHub({ repository, endpoint: hub.endpoint, blobDir, backoffMs: 1, timeoutMs: 2000, ...options });
  return { hub, dir, blobDir, run };
}

function withExtras(files: Files): Files {
  const extras = {
    "tokenizer.json": '{"x":1}',
    "pytorch_model.bin": "pickle",
    "tf_model.h5": "h5",
    "original/consolidated.00.pth": "p",
  };
  return { ...files, ...extras };
}

const weightsPath = "/model.safetensors";
const on =
  (host: "hub" | "cdn", path: string, act: (response: Parameters<Trouble>[1], count: number) => boolean): Trouble =>
  (request, response, count) =>
    request.host === host && request.path.includes(path) ? act(response, count) : undefined;

for (const [shape, files] of [
  ["one file", singleFiles()],
  ["shards", shardedFiles()],
] as const) {
  test(`a repository with ${shape} gives the checkpoint of the same directory, at a commit`, async (t) => {
    const { hub, dir, run } = await setup(t, withExtras(files));
    const seen: number[] = [];
    const result = await run({ onProgress: (done, total) => seen.push(done / total) });
    const local = await writeFiles(dir, "local", { ...files, "tokenizer.json": '{"x":1}' });
    const expected = await importDirectory({
      path: local,
      mode: "copy",
      importRoots: [dir],
      blobDir: join(dir, "other"),
    });
    assert.deepEqual(result.manifest, expected.manifest);
    assert.equal(result.digest, expected.digest);
    assert.equal(result.commit, commit);
    assert.ok(result.blobs.every((blob) => blob.external === null));
    assert.equal(seen.at(-1), 1);
    assert.deepEqual(
      seen,
      [...seen].sort((a, b) => a - b),
    );
    const paths = hub.seen.map((request) => request.path).join("\n");
    assert.ok(!/\.bin|\.h5|\.pth/.test(paths), "no pickle is asked for");
    assert.ok(!paths.includes("resolve/main"), "files are asked for by commit");
  });
}

test("the token goes to the hub and to nobody it redirects to", async (t) => {
  const { hub, run } = await setup(t);
  await run({ token: "secret" });
  assert.ok(hub.seen.some((request) => request.host === "cdn"));
  for (const { host, authorization } of hub.seen)
    assert.equal(authorization, host === "hub" ? "Bearer secret" : undefined);
});

test("a second import finds the weights in the store and fetches none", async (t) => {
  const { hub, run } = await setup(t);
  const first = await run();
  hub.seen.length = 0;
  const second = await run();
  assert.deepEqual(second.manifest, first.manifest);
  assert.ok(!hub.seen.some((request) => request.path.includes("safetensors")));
});

test("a cut download goes on where it was cut", async (t) => {
  const { hub, run } = await setup(t);
  const body = Buffer.from(singleFiles()["model.safetensors"] as Uint8Array);
  hub.trouble = on("cdn", weightsPath, (response, count) => {
    if (count > 1) return false;
    response.writeHead(200, { "content-length": body.length });
    response.write(body.subarray(0, 1000), () => setTimeout(() => response.destroy(), 20));
    return true;
  });
  const result = await run();
  assert.deepEqual(
    hub.seen.filter((request) => request.host === "cdn").map((request) => request.range),
    [undefined, "bytes=1000-"],
  );
  assert.equal(result.manifest.original?.find((file) => file.name === "model.safetensors")?.sizeBytes, body.length);
});

test("a cut download starts over where the server does not know ranges", async (t) => {
  const { hub, run } = await setup(t);
  const body = Buffer.from(singleFiles()["model.safetensors"] as Uint8Array);
  hub.trouble = on("cdn", weightsPath, (response, count) => {
    response.writeHead(200, { "content-length": body.length });
    if (count === 1) response.write(body.subarray(0, 1000), () => setTimeout(() => response.destroy(), 20));
    else response.end(body);
    return true;
  });
  await run();
});

test("429 and 503 are asked again, after the pause the hub asks for", async (t) => {
  const { hub, run } = await setup(t);
  hub.trouble = (_request, response, count) => {
    if (count > 2) return undefined;
    response.writeHead(count === 1 ? 429 : 503, { "retry-after": "0" }).end();
    return true;
  };
  await run();
});

test("a hub that keeps failing, is silent, or is not there is hub_unavailable after a bounded time", async (t) => {
  const { hub, run } = await setup(t);
  hub.trouble = on("hub", "/api/", (response) => Boolean(response.writeHead(500).end()));
  await rejectsWith(run(), "hub_unavailable", "status 500");
  assert.equal(hub.seen.length, 5);
  hub.trouble = on("cdn", weightsPath, () => true);
  await rejectsWith(run({ timeoutMs: 50 }), "hub_unavailable", "silent for 50 ms");
  await rejectsWith(run({ endpoint: "http://127.0.0.1:9" }), "hub_unavailable", "127.0.0.1:9");
});

test("refused access and absence have their own codes", async (t) => {
  const { hub, run } = await setup(t);
  hub.trouble = on("hub", "/resolve/", (response) =>
    Boolean(response.writeHead(403, { "x-error-code": "GatedRepo" }).end()),
  );
  await rejectsWith(run(), "forbidden", "gated");
  hub.trouble = on("hub", "/api/", (response) => Boolean(response.writeHead(401).end()));
  await rejectsWith(run(), "forbidden", "token");
  hub.trouble = () => undefined;
  await rejectsWith(run({ repository: "owner/absent" }), "not_found", "owner/absent");
  await rejectsWith(run({ revision: "v9" }), "not_found", "v9");
});

test("bytes that are not what the hub says are refused and never visible", async (t) => {
  const { hub, run, blobDir } = await setup(t);
  const body = Buffer.from(singleFiles()["model.safetensors"] as Uint8Array);
  const wrong = Buffer.from(body).fill(1, body.length - 1);
  hub.trouble = on("cdn", weightsPath, (response) =>
    Boolean(response.writeHead(200, { "content-length": wrong.length }).end(wrong)),
  );
  await rejectsWith(run(), "checkpoint_corrupt", "SHA-256");
  const stored = (await readdir(blobDir, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  assert.equal(stored.length, 2, "config.json and tokenizer.json only");
  const long = Buffer.concat([body, body]);
  hub.trouble = on("cdn", weightsPath, (response) => Boolean(response.writeHead(200).end(long)));
  await rejectsWith(run(), "checkpoint_corrupt", "its size is");
  hub.trouble = on("hub", "/config.json", (response) =>
    Boolean(response.writeHead(200).end(JSON.stringify(tinyConfig).replace("16", "17"))),
  );
  await rejectsWith(run(), "checkpoint_corrupt", "its git id");
});

test("limits hold: a file larger than allowed, or a listing that lies about its size", async (t) => {
  const { hub, run } = await setup(t);
  await rejectsWith(run({ maxFileBytes: 100 }), "checkpoint_unsupported", "at most 100");
  hub.listing = (files) => ({ sha: commit, siblings: files.map(({ rfilename }) => ({ rfilename })) });
  await rejectsWith(run({ maxFileBytes: 100 }), "checkpoint_unsupported", "at most 100");
  await run();
});

test("redirects are limited, and lead to http or https only", async (t) => {
  const { hub, run } = await setup(t);
  hub.trouble = on("cdn", weightsPath, (response) => Boolean(response.writeHead(302, { location: weightsPath }).end()));
  await rejectsWith(run(), "hub_unavailable", "more than 5 redirects");
  for (const location of ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://"]) {
    hub.trouble = on("hub", "/config.json", (response) => Boolean(response.writeHead(302, { location }).end()));
    await rejectsWith(run(), "hub_unavailable", "not allowed");
  }
});

test("an unsupported model is refused before its weights travel", async (t) => {
  const config = { ...tinyConfig, architectures: ["GPT2LMHeadModel"], model_type: "gpt2" };
  const { hub, run } = await setup(t, { ...singleFiles(), "config.json": JSON.stringify(config) });
  await rejectsWith(run(), "checkpoint_unsupported");
  assert.ok(!hub.seen.some((request) => request.path.includes("safetensors")));
});

test("a repository with pickles only, and an index that leads elsewhere, are refused", async (t) => {
  const pickled = await setup(t, { "config.json": JSON.stringify(tinyConfig), "pytorch_model.bin": "x" });
  await rejectsWith(pickled.run(), "checkpoint_unsupported", "pickle");
  const files = shardedFiles();
  const index = String(files["model.safetensors.index.json"]).replaceAll(shardNames[0], "../../other/x.safetensors");
  const led = await setup(t, { ...files, "model.safetensors.index.json": index });
  await rejectsWith(led.run(), "checkpoint_corrupt", "leaves the directory");
});

test("names and endpoints that are none are refused before any request", async (t) => {
  const { hub, run } = await setup(t);
  for (const name of ["", "owner", "../x", "owner/..", "o/n/x", "owner/na me", "owner/n?x", "http://x/y"]) {
    await rejectsWith(run({ repository: name }), "invalid_request", "owner/name wanted");
  }
  for (const revision of ["", "..", "a/../b", "a b", "a\n", "?x"])
    await rejectsWith(run({ revision }), "invalid_request", "revision");
  for (const endpoint of ["file:///x", "hub", "http://user:pw@host", "http://host/?x"]) {
    await rejectsWith(run({ endpoint }), "invalid_request", "endpoint");
  }
  assert.deepEqual(hub.seen, []);
});

test("aborting ends a download with the signal's reason and leaves no unfinished file", async (t) => {
  const { hub, run, blobDir } = await setup(t);
  const abort = new AbortController();
  hub.trouble = on("cdn", weightsPath, (response) => {
    response.writeHead(200, { "content-length": 5000 });
    response.write("x".repeat(1000), () => abort.abort(new Error("stop")));
    return true;
  });
  await assert.rejects(run({ signal: abort.signal }), /stop/);
  assert.deepEqual(await readdir(join(blobDir, "tmp")), []);
});
