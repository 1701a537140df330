/**
 * The docs of a task from a model hub: which commit a revision is, which of its files hold the split, their rows as
 * JSONL, kept in a folder under the digest of what they became. A commit never changes, so one that was fetched is
 * not fetched again. The hub's own conversion to Parquet (`refs/convert/parquet`) is taken first, for every data set
 * of the tasks has one layout there, whatever its authors chose; a revision may be asked for instead.
 * Source: the datasets part of the hub's HTTP interface (huggingface_hub, hf_api.py), and the names that its
 * documentation gives for splits ("Structure your repository").
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import { HubClient, type HubClientOptions } from "../checkpoint/hubClient.ts";
import { parseStrictJson, quoted, type StrictValue } from "../checkpoint/strictJson.ts";
import { rowsToJsonl } from "./parquetRows.ts";
import { expectedFile, maxTaskFileBytes, parseDocs } from "./readDocs.ts";
import type { Task } from "./task.ts";

export interface HubDataOptions extends HubClientOptions {
  /** Branch, tag or commit; null for the hub's conversion to Parquet, or `main` where there is none. */
  readonly revision: string | null;
  /** Where files are kept. */
  readonly cacheDir: string;
}

/** A split that was fetched: what it was made of, and where it lies. */
export interface HubData {
  readonly task: string;
  readonly repository: string;
  readonly config: string | null;
  readonly split: string;
  /** As asked for. */
  readonly revision: string;
  /** What that was. */
  readonly commit: string;
  readonly files: readonly { readonly name: string; readonly sha256: string; readonly sizeBytes: number }[];
  /** SHA-256 of the JSONL that they became. */
  readonly digest: string;
  readonly numDocs: number;
}

interface ListedFile {
  readonly name: string;
  readonly sizeBytes: number | null;
  readonly sha256: string | null;
}

const maxListBytes = 32 * 2 ** 20;
const maxListedFiles = 20_000;
const maxFilesOfSplit = 64;
const convertedRevision = "refs/convert/parquet";
const revisionPattern = /^[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}$/;
const commitPattern = /^[0-9a-f]{40,64}$/;

/** @returns where the docs of a fetched split lie. */
export function hubDataPath(cacheDir: string, { digest }: Pick<HubData, "digest">): string {
  return join(cacheDir, `${digest}.jsonl`);
}

/** @returns the splits of a task that were fetched, the latest first. */
export async function listHubData(cacheDir: string, task: string, split: string): Promise<HubData[]> {
  const folder = join(cacheDir, task, split);
  const names = await readdir(folder).catch(() => []);
  const found: { data: HubData; usedMs: number }[] = [];
  for (const name of names.filter((one) => one.endsWith(".json"))) {
    const data = await readEntry(cacheDir, join(folder, name));
    const file = await stat(join(folder, name)).catch(() => null);
    if (data && file) found.push({ data, usedMs: file.mtimeMs });
  }
  return found.sort((a, b) => b.usedMs - a.usedMs).map(({ data }) => data);
}

/** An entry whose docs are gone is none. */
async function readEntry(cacheDir: string, path: string): Promise<HubData | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  if (text === null) return null;
  const data = JSON.parse(text) as HubData;
  const docs = await stat(hubDataPath(cacheDir, data)).catch(() => null);
  return docs?.isFile() ? data : null;
}

/**
 * @param split of the task's data set
 * @throws invalid_request, not_found, forbidden (gated, private), hub_unavailable, dataset_invalid naming what was
 *   expected
 */
export async function fetchHubData(task: Task, split: string, options: HubDataOptions): Promise<HubData> {
  const { cacheDir, revision } = options;
  if (revision !== null && (!revisionPattern.test(revision) || /\.\.|\/\/|\/$/.test(revision))) {
    throw new CodedError("invalid_request", `revision ${quoted(revision)}: a branch, tag or commit is wanted`);
  }
  const entryOf = (commit: string): string => join(cacheDir, task.name, split, `${commit}.json`);
  if (revision !== null && commitPattern.test(revision)) {
    const cached = await readEntry(cacheDir, entryOf(revision));
    if (cached) return cached;
  }
  const client = new HubClient(options);
  const { listing, revision: found } = await askForListing(client, task, revision);
  const cached = await readEntry(cacheDir, entryOf(listing.commit));
  if (cached) {
    const now = new Date();
    await utimes(entryOf(listing.commit), now, now);
    return cached;
  }
  const files = filesOfSplit(task, split, listing.files);
  const { text, taken } = await fetchRows(client, task, listing.commit, files);
  const { numDocsInFile: numDocs } = checkedDocs(task, split, text);
  const { repository, config } = task.dataset;
  const digest = createHash("sha256").update(text).digest("hex");
  const asked = { task: task.name, repository, config, split, revision: found, commit: listing.commit };
  const data: HubData = { ...asked, files: taken, digest, numDocs };
  await mkdir(join(cacheDir, task.name, split), { recursive: true });
  await writeWhole(hubDataPath(cacheDir, data), text);
  await writeWhole(entryOf(listing.commit), JSON.stringify(data));
  return data;
}

/** Wrong docs are told of here, and never kept. */
function checkedDocs(task: Task, split: string, text: string): ReturnType<typeof parseDocs> {
  try {
    return parseDocs(task, text, null);
  } catch (error) {
    if (!(error instanceof CodedError) || error.code !== "dataset_invalid") throw error;
    const wanted = expectedFile(task, split === task.dataset.split ? "docs" : "shots");
    throw new CodedError("dataset_invalid", `${error.message} (wanted is ${wanted})`, { cause: error });
  }
}

interface Listing {
  readonly commit: string;
  readonly files: readonly ListedFile[];
}

async function askForListing(
  client: HubClient,
  task: Task,
  revision: string | null,
): Promise<{ listing: Listing; revision: string }> {
  const { repository } = task.dataset;
  const ask = async (wanted: string): Promise<{ listing: Listing; revision: string }> => {
    const path = `api/datasets/${repository}/revision/${encodeURIComponent(wanted)}?blobs=true`;
    return { listing: parseListing(await client.get(path, maxListBytes), repository), revision: wanted };
  };
  if (revision !== null) return ask(revision);
  try {
    return await ask(convertedRevision);
  } catch (error) {
    if (!(error instanceof CodedError) || error.code !== "not_found") throw error;
    return ask("main");
  }
}

function parseListing(bytes: Uint8Array, repository: string): Listing {
  const what = `the hub's list of ${repository}`;
  const bad = (problem: string): never => {
    throw new CodedError("hub_unavailable", `${what}: ${problem}`);
  };
  const root = parseStrictJson(bytes, { what, code: "hub_unavailable" });
  if (!(root instanceof Map)) return bad("not an object");
  const commit = root.get("sha");
  if (typeof commit !== "string" || !commitPattern.test(commit)) return bad("no commit");
  const siblings = root.get("siblings");
  if (!Array.isArray(siblings) || siblings.length > maxListedFiles) return bad("no list of files, or too long a one");
  const files: ListedFile[] = [];
  for (const sibling of siblings) {
    const name = sibling instanceof Map ? sibling.get("rfilename") : undefined;
    if (!(sibling instanceof Map) || typeof name !== "string") continue;
    const large = sibling.get("lfs");
    const facts = large instanceof Map ? large : new Map<string, StrictValue>();
    const size = facts.get("size") ?? sibling.get("size");
    const sha256 = facts.get("sha256");
    files.push({
      name,
      sizeBytes: typeof size === "number" ? size : null,
      sha256: typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256) ? sha256 : null,
    });
  }
  return { commit, files };
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** @returns the files that hold a split, in order. @throws dataset_invalid naming what was looked for */
function filesOfSplit(task: Task, split: string, listed: readonly ListedFile[]): ListedFile[] {
  const { repository, config } = task.dataset;
  const s = escaped(split);
  const shard = `${s}(-[0-9]{5}-of-[0-9]{5})?(-[0-9a-f]+)?\\.parquet`;
  // A data set with one configuration calls it as it likes.
  const folder = config === null ? "[^/]+" : escaped(config);
  const patterns = [
    `${folder}/${s}/[0-9]{4,5}\\.parquet`,
    `${folder}/${shard}`,
    ...(config === null || config === "default" ? [`(data/)?${shard}`] : []),
    `(${folder}/|data/)?${s}\\.jsonl`,
  ];
  for (const pattern of patterns) {
    const found = listed.filter(({ name }) => new RegExp(`^${pattern}$`).test(name));
    if (found.length === 0) continue;
    const sorted = found.sort((a, b) => (a.name < b.name ? -1 : 1));
    assertWhole(repository, sorted);
    return sorted;
  }
  const names = listed.map(({ name }) => name).slice(0, 10);
  const there = names.length === 0 ? "nothing" : names.join(", ");
  const wanted = `the ${split} split of ${repository}${config === null ? "" : ` (${config})`}`;
  throw new CodedError(
    "dataset_invalid",
    `${task.name}: no file holds ${wanted}, as Parquet or JSONL; it has ${there}`,
  );
}

/** One folder, and as many files as their names say there are. */
function assertWhole(repository: string, files: readonly ListedFile[]): void {
  const folders = new Set(files.map(({ name }) => name.split("/").slice(0, -1).join("/")));
  const count = /-of-([0-9]{5})/.exec(files[0]?.name ?? "")?.[1];
  const whole = count === undefined || Number(count) === files.length;
  if (folders.size === 1 && whole && files.length <= maxFilesOfSplit) return;
  const names = files.map(({ name }) => name).slice(0, 10);
  throw new CodedError("dataset_invalid", `${repository}: ${names.join(", ")} are not the files of one split`);
}

async function fetchRows(
  client: HubClient,
  task: Task,
  commit: string,
  files: readonly ListedFile[],
): Promise<{ text: string; taken: HubData["files"][number][] }> {
  const { repository } = task.dataset;
  const taken: HubData["files"][number][] = [];
  let text = "";
  let left = maxTaskFileBytes;
  for (const file of files) {
    const path = file.name.split("/").map(encodeURIComponent).join("/");
    const bytes = await client.get(`datasets/${repository}/resolve/${commit}/${path}`, left);
    left -= bytes.length;
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    assertSaid(file, "size", bytes.length, file.sizeBytes);
    assertSaid(file, "SHA-256", sha256, file.sha256);
    const rows = file.name.endsWith(".parquet")
      ? await rowsToJsonl(bytes, `${task.name}: ${file.name}`)
      : new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    text += rows.endsWith("\n") || rows === "" ? rows : `${rows}\n`;
    taken.push({ name: file.name, sha256, sizeBytes: bytes.length });
  }
  return { text, taken };
}

function assertSaid(file: ListedFile, what: string, got: string | number, said: string | number | null): void {
  if (said === null || got === said) return;
  throw new CodedError("dataset_invalid", `${file.name}: its ${what} is ${got}, the hub says ${said}`);
}

/** Under its name there is never half a file. */
async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await writeFile(temporary, text, { flush: true });
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
