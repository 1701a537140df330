/** The docs of tasks from a hub: a server that behaves like one, Parquet by a real writer, and what can go wrong. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { fetchHubData, hubDataPath, listHubData, type HubDataOptions } from "../../../src/engine/eval/hubData.ts";
import { findTask } from "../../../src/engine/eval/index.ts";
import { rowsToJsonl } from "../../../src/engine/eval/parquetRows.ts";
import { parseDocs, readDocs } from "../../../src/engine/eval/readDocs.ts";
import type { Task } from "../../../src/engine/eval/task.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { startDatasetHub, type DatasetHub, type HubContent } from "./datasetHub.ts";
import { arcParquet, flatParquet } from "./parquetFiles.ts";

const piqaDocs = Array.from({ length: 5 }, (_, i) => ({
  goal: `Reach ${i}`,
  sol1: "go",
  sol2: "stay €",
  label: i % 2,
}));
const piqaTypes = { goal: "STRING", sol1: "STRING", sol2: "STRING", label: "INT64" } as const;
const arcDocs = Array.from({ length: 3 }, (_, i) => ({
  ...{ id: `q${i}`, question: `Which is ${i}?`, choices: { text: ["a", "b", "c"], label: ["A", "B", "C"] } },
  answerKey: "ABC"[i],
}));
const commits = ["1", "2", "3", "4", "5"].map((digit) => digit.repeat(40)) as [string, string, string, string, string];
const jsonl = (docs: readonly unknown[]): Uint8Array => Buffer.from(docs.map((doc) => JSON.stringify(doc)).join("\n"));

const content: HubContent = {
  "baber/piqa": {
    "refs/convert/parquet": {
      commit: commits[0],
      files: {
        "default/train/0000.parquet": flatParquet(piqaDocs, piqaTypes),
        "default/validation/0000.parquet": flatParquet(piqaDocs.slice(0, 3), piqaTypes),
        "default/validation/0001.parquet": flatParquet(piqaDocs.slice(3), piqaTypes),
      },
    },
    "refs/pr/1": {
      commit: commits[1],
      files: { "data/test-00000-of-00001.parquet": flatParquet(piqaDocs, piqaTypes) },
    },
  },
  "allenai/ai2_arc": {
    main: {
      commit: commits[2],
      files: {
        "README.md": Buffer.from("about"),
        "ARC-Easy/test-00000-of-00001.parquet": arcParquet(arcDocs),
        "ARC-Challenge/test-00000-of-00002.parquet": arcParquet(arcDocs),
      },
    },
  },
  "EleutherAI/lambada_openai": {
    main: { commit: commits[3], files: { "data/test.jsonl": jsonl([{ text: "one two" }, { text: "three four" }]) } },
  },
  "allenai/sciq": {
    main: { commit: commits[4], files: { "data/test-00000-of-00001.parquet": flatParquet(piqaDocs, piqaTypes) } },
  },
};

let hub: DatasetHub;
let cacheDir: string;
before(async () => {
  hub = await startDatasetHub(content);
});
after(() => hub.close());
beforeEach(() => {
  cacheDir = mkdtempSync(join(tmpdir(), "cambium-hub-data-"));
  hub.seen.length = 0;
  hub.trouble = () => false;
});
afterEach(() => rmSync(cacheDir, { recursive: true, force: true }));

function task(name: string): Task {
  const found = findTask(name);
  assert.ok(found);
  return found;
}

const fetched = (name: string, split: string, more: Partial<HubDataOptions> = {}) =>
  fetchHubData(task(name), split, { endpoint: hub.endpoint, cacheDir, revision: null, backoffMs: 1, ...more });

function refusedWith(code: string, message: RegExp) {
  return (error: unknown) => error instanceof CodedError && error.code === code && message.test(error.message);
}

test("the hub's conversion to Parquet becomes the docs that the same JSONL would be, hashes included", async () => {
  const data = await fetched("piqa", "validation");
  assert.deepEqual(
    [data.commit, data.revision, data.numDocs, data.files.map(({ name }) => name)],
    [commits[0], "refs/convert/parquet", 5, ["default/validation/0000.parquet", "default/validation/0001.parquet"]],
  );
  const path = hubDataPath(cacheDir, data);
  const read = await readDocs(task("piqa"), path, null);
  const own = parseDocs(task("piqa"), piqaDocs.map((doc) => JSON.stringify(doc)).join("\n"), null);
  assert.deepEqual(read.hashes, own.hashes);
  assert.equal(data.digest, createHash("sha256").update(readFileSync(path)).digest("hex"));
  assert.equal(read.digest, data.digest);
});

test("lists within a column are read, and where there is no conversion `main` is", async () => {
  const data = await fetched("arc_easy", "test");
  assert.deepEqual([data.commit, data.revision], [commits[2], "main"]);
  const read = await readDocs(task("arc_easy"), hubDataPath(cacheDir, data), null);
  const own = parseDocs(task("arc_easy"), arcDocs.map((doc) => JSON.stringify(doc)).join("\n"), null);
  assert.deepEqual(read.hashes, own.hashes);
  assert.deepEqual(
    read.docs.map(({ gold }) => gold),
    [0, 1, 2],
  );
  const plain = await fetched("lambada_openai", "test");
  assert.deepEqual([plain.numDocs, plain.files[0]?.name], [2, "data/test.jsonl"]);
});

test("a commit is fetched once, and one that was fetched needs no hub at all", async () => {
  const first = await fetched("piqa", "validation");
  const files = hub.seen.filter(({ path }) => path.includes("resolve") || path.includes("objects"));
  assert.equal(files.length, 4, "two files, each by way of the second host");
  hub.seen.length = 0;
  assert.deepEqual(await fetched("piqa", "validation"), first);
  assert.deepEqual(
    hub.seen.map(({ path }) => path),
    ["/api/datasets/baber/piqa/revision/refs%2Fconvert%2Fparquet?blobs=true"],
  );
  hub.trouble = (_host, _path, response) => (response.writeHead(500).end(), true);
  assert.deepEqual(await fetched("piqa", "validation", { revision: commits[0] }), first);
  assert.deepEqual(await listHubData(cacheDir, "piqa", "validation"), [first]);
});

test("the token goes to the hub and not to where it redirects", async () => {
  await fetched("piqa", "validation", { token: "secret" });
  const sent = (host: string) => new Set(hub.seen.filter((one) => one.host === host).map((one) => one.authorization));
  assert.deepEqual([[...sent("hub")], [...sent("cdn")]], [["Bearer secret"], [undefined]]);
});

test("a download that is cut goes on where it was cut; one that is damaged is refused and not kept", async () => {
  let cuts = 0;
  hub.trouble = (host, path, response, from) => {
    if (host !== "cdn" || from > 0 || cuts > 0) return false;
    cuts += 1;
    const body = content["baber/piqa"]?.["refs/convert/parquet"]?.files["default/validation/0000.parquet"];
    assert.ok(body, path);
    response.writeHead(200, { "content-length": body.length });
    response.write(body.subarray(0, 100), () => response.destroy());
    return true;
  };
  assert.equal((await fetched("piqa", "validation")).numDocs, 5);
  assert.equal(cuts, 1);
  rmSync(cacheDir, { recursive: true });
  hub.trouble = (host, _path, response, from) => {
    if (host !== "cdn") return false;
    const body = content["baber/piqa"]?.["refs/convert/parquet"]?.files["default/validation/0000.parquet"];
    const damaged = Buffer.from(body ?? "");
    damaged[50] = (damaged[50] ?? 0) ^ 1;
    response.writeHead(200, { "content-length": damaged.length }).end(damaged.subarray(from));
    return true;
  };
  await assert.rejects(
    fetched("piqa", "validation"),
    refusedWith("dataset_invalid", /default\/validation\/0000.parquet: its SHA-256 is [0-9a-f]{64}, the hub says/),
  );
  assert.deepEqual(await listHubData(cacheDir, "piqa", "validation"), []);
});

test("what the hub refuses or does not have is told by name", async () => {
  await assert.rejects(fetched("piqa", "validation", { revision: "no-such" }), refusedWith("not_found", /baber\/piqa/));
  await assert.rejects(
    fetched("piqa", "validation", { revision: "refs/pr/1" }),
    refusedWith("dataset_invalid", /no file holds the validation split of baber\/piqa.*data\/test-00000/),
  );
  await assert.rejects(
    fetched("arc_challenge", "test"),
    refusedWith("dataset_invalid", /ARC-Challenge\/test-00000-of-00002.parquet are not the files of one split/),
  );
  await assert.rejects(
    fetched("piqa", "validation", { revision: "../../x" }),
    refusedWith("invalid_request", /revision/),
  );
  hub.trouble = (_host, _path, response) => (response.writeHead(401).end(), true);
  await assert.rejects(fetched("piqa", "validation"), refusedWith("forbidden", /private, gated/));
  hub.trouble = (_host, _path, response) => (response.writeHead(503).end(), true);
  await assert.rejects(fetched("piqa", "validation"), refusedWith("hub_unavailable", /503/));
});

test("rows that are not docs of the task are refused, say what is wanted, and are not kept", async () => {
  const wanted = /sciq line 1: field "distractor1" missing \(wanted is .*the test split of allenai\/sciq\)/;
  await assert.rejects(fetched("sciq", "test"), refusedWith("dataset_invalid", wanted));
  assert.deepEqual(
    readdirSync(cacheDir).filter((name) => name.endsWith(".jsonl")),
    [],
  );
});

test("a file that is no Parquet, or one that was cut, is refused by name", async () => {
  const file = flatParquet(piqaDocs, piqaTypes);
  for (const bytes of [file.subarray(0, file.length - 20), Buffer.from("PAR1 nothing"), Buffer.alloc(0)]) {
    await assert.rejects(
      rowsToJsonl(bytes, "x.parquet"),
      refusedWith("dataset_invalid", /^x.parquet is not a Parquet/),
    );
  }
});

test("integers beyond 2^53 are refused, not rounded", async () => {
  const file = flatParquet([{ label: 2 ** 53 }], { label: "INT64" });
  await assert.rejects(rowsToJsonl(file, "x.parquet"), refusedWith("dataset_invalid", /column label holds/));
});
