/**
 * Imports a checkpoint from a model hub: asks which commit a revision is and which files it has, takes the
 * ones a checkpoint consists of (never a pickle), and checks each against the size and digest that the hub
 * names. Files stream into the blob store under their SHA-256; one that is there already is not fetched, so
 * a repeated import goes on where the last one ended. Small files first: an unsupported model is refused
 * before its weights travel.
 */
import { createHash } from "node:crypto";
import { stat, statfs, utimes } from "node:fs/promises";
import { llama } from "../../ops/architectures/index.ts";
import { CodedError } from "../../ops/errors.ts";
import { readBlob } from "./blobReader.ts";
import { blobPath, createBlobWriter } from "./blobs.ts";
import { configFileName, isCompanion, maxCompanionBytes, maxConfigBytes, noWeights, weightsFileName } from "./files.ts";
import { HubClient, type HubClientOptions } from "./hubClient.ts";
import { importStored, type ImportOptions, type ImportResult } from "./importers.ts";
import { placed, type PlacedFile } from "./place.ts";
import { parseConfigJson } from "./reader.ts";
import { parseStrictJson, quoted, type StrictValue } from "./strictJson.ts";
import { indexFileName, maxIndexBytes, parseWeightIndex } from "./weightIndex.ts";

export interface HubImport extends ImportOptions, HubClientOptions {
  /** `owner/name`. */
  readonly repository: string;
  /** Branch, tag or commit; `main` when absent. */
  readonly revision?: string | null | undefined;
  /** Bytes of one weights file, at most. */
  readonly maxFileBytes?: number | undefined;
}

export interface HubImportResult extends ImportResult {
  /** What the revision was when it was imported. */
  readonly commit: string;
}

/** A file as the hub lists it. */
interface HubFile {
  readonly name: string;
  readonly sizeBytes: number | null;
  /** Named for large files. */
  readonly sha256: string | null;
  /** Git's object id, of small files: SHA-1 over a prefix and the content. */
  readonly gitId: string | null;
}

const maxListBytes = 32 << 20;
const maxListedFiles = 20_000;
const defaultMaxFileBytes = 2 ** 40;
const repositoryPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}\/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
const revisionPattern = /^[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}$/;

/**
 * Imports one revision of a repository, by copy.
 * @throws invalid_request, not_found, forbidden (gated, private), hub_unavailable, checkpoint_corrupt (a file is
 *   not what the hub says it is), checkpoint_missing_file, checkpoint_unsupported, storage_full; cancelled by `signal`
 */
export async function importHub(options: HubImport): Promise<HubImportResult> {
  const { repository } = options;
  const revision = options.revision ?? "main";
  assertName(repositoryPattern, repository, "repository", "owner/name");
  assertName(revisionPattern, revision, "revision", "a branch, tag or commit");
  const client = new HubClient(options);
  const encoded = encodeURIComponent(revision);
  const list = await client.get(`api/models/${repository}/revision/${encoded}?blobs=true`, maxListBytes);
  const { commit, files } = parseListing(list, repository);
  const fetcher = new Fetcher(client, options, `${repository}/resolve/${commit}`, files);

  const config = await fetcher.take(configFileName, maxConfigBytes);
  llama.parseConfig(parseConfigJson(await fetcher.read(config)));
  const weights: string[] = [weightsFileName];
  const taken = [config];
  if (!files.has(weightsFileName)) {
    if (!files.has(indexFileName)) throw noWeights(files.keys());
    const index = await fetcher.take(indexFileName, maxIndexBytes);
    taken.push(index);
    weights.splice(0, 1, ...parseWeightIndex(await fetcher.read(index)).shards);
  }
  fetcher.expect(weights);
  await assertSpace(options.blobDir, weights, files);
  for (const name of files.keys()) {
    if (isCompanion(name)) taken.push(await fetcher.take(name, maxCompanionBytes));
  }
  for (const name of weights) taken.push(await fetcher.take(name, options.maxFileBytes ?? defaultMaxFileBytes));
  const { blobDir, signal } = options;
  // Fetching is the first half of the work, hashing the tensors the second.
  const onProgress = (done: number, total: number): void => options.onProgress?.(total + done, 2 * total);
  return { ...(await importStored({ blobDir, signal, onProgress, files: taken })), commit };
}

function assertName(pattern: RegExp, value: string, what: string, wanted: string): void {
  // ".." would be resolved as a path by whoever reads the address.
  if (pattern.test(value) && !value.includes("..") && !value.includes("//") && !value.endsWith("/")) return;
  throw new CodedError("invalid_request", `${what} ${quoted(value)}: ${wanted} wanted`);
}

function parseListing(bytes: Uint8Array, repository: string): { commit: string; files: Map<string, HubFile> } {
  const bad = (problem: string): never => {
    throw new CodedError("hub_unavailable", `the hub's list of ${repository}: ${problem}`);
  };
  const root = parseStrictJson(bytes, { what: `the hub's list of ${repository}`, code: "hub_unavailable" });
  if (!(root instanceof Map)) return bad("not an object");
  const commit = root.get("sha");
  if (typeof commit !== "string" || !/^[0-9a-f]{40,64}$/.test(commit)) return bad("no commit");
  const siblings = root.get("siblings");
  if (!Array.isArray(siblings) || siblings.length > maxListedFiles) return bad("no list of files, or too long a one");
  const files = new Map<string, HubFile>();
  for (const sibling of siblings) {
    const name = sibling instanceof Map ? sibling.get("rfilename") : undefined;
    // Files in sub directories belong to other formats (original/, onnx/).
    if (!(sibling instanceof Map) || typeof name !== "string" || name.includes("/")) continue;
    const lfs = sibling.get("lfs");
    const large = lfs instanceof Map ? lfs : new Map<string, StrictValue>();
    const size = large.get("size") ?? sibling.get("size");
    const sha256 = matching(large.get("sha256"), /^[0-9a-f]{64}$/);
    const gitId = lfs instanceof Map ? null : matching(sibling.get("blobId"), /^[0-9a-f]{40}$/);
    files.set(name, { name, sizeBytes: typeof size === "number" && size >= 0 ? size : null, sha256, gitId });
  }
  return { commit, files };
}

function matching(value: StrictValue | undefined, pattern: RegExp): string | null {
  return typeof value === "string" && pattern.test(value) ? value : null;
}

/** @throws checkpoint_corrupt when what came is not what the hub says; what it does not say cannot be compared */
function assertSame(name: string, what: string, got: string | number, said: string | number | null): void {
  if (said === null || got === said) return;
  throw new CodedError("checkpoint_corrupt", `${name}: its ${what} is ${got}, the hub says ${said}`);
}

/** @throws storage_full before the first byte travels, where the sizes are known */
async function assertSpace(
  blobDir: string,
  names: readonly string[],
  files: ReadonlyMap<string, HubFile>,
): Promise<void> {
  const wanted = names.reduce((sum, name) => sum + (files.get(name)?.sizeBytes ?? 0), 0);
  const { bavail, bsize } = await statfs(blobDir);
  if (bavail * bsize >= wanted) return;
  throw new CodedError("storage_full", `the weights take ${wanted} bytes, ${bavail * bsize} are free`);
}

/** Takes files of one commit into the store. */
class Fetcher {
  readonly #client: HubClient;
  readonly #options: HubImport;
  readonly #prefix: string;
  readonly #files: ReadonlyMap<string, HubFile>;
  #doneBytes = 0;
  #weightBytes = 0;
  readonly #counted = new Set<string>();

  constructor(client: HubClient, options: HubImport, prefix: string, files: ReadonlyMap<string, HubFile>) {
    this.#client = client;
    this.#options = options;
    this.#prefix = prefix;
    this.#files = files;
  }

  /** Tells which files count as progress. @throws checkpoint_missing_file */
  expect(names: readonly string[]): void {
    for (const name of names) {
      this.#counted.add(name);
      this.#weightBytes += this.#listed(name).sizeBytes ?? 0;
    }
  }

  async read(file: PlacedFile): Promise<Uint8Array> {
    return readBlob({ path: file.path, sizeBytes: file.blob.sizeBytes, mtimeMs: null }, maxIndexBytes);
  }

  /** Fetches one file, or finds it in the store. */
  async take(name: string, maxBytes: number): Promise<PlacedFile> {
    const file = this.#listed(name);
    if (file.sizeBytes !== null && file.sizeBytes > maxBytes) {
      throw new CodedError("checkpoint_unsupported", `${name}: ${file.sizeBytes} bytes, at most ${maxBytes} are taken`);
    }
    return (await this.#inStore(file)) ?? (await this.#fetch(file, maxBytes));
  }

  #listed(name: string): HubFile {
    const file = this.#files.get(name);
    if (file !== undefined) return file;
    throw new CodedError("checkpoint_missing_file", `${this.#options.repository} has no file ${quoted(name)}`);
  }

  async #inStore({ name, sha256, sizeBytes }: HubFile): Promise<PlacedFile | null> {
    if (sha256 === null || sizeBytes === null) return null;
    const path = blobPath(this.#options.blobDir, sha256);
    const stats = await stat(path).catch(() => null);
    if (stats?.size !== sizeBytes) return null;
    const now = new Date();
    await utimes(path, now, now);
    this.#advance(name, sizeBytes);
    return placed(this.#options.blobDir, name, { digest: sha256, sizeBytes });
  }

  async #fetch(file: HubFile, maxBytes: number): Promise<PlacedFile> {
    const { name } = file;
    const { blobDir } = this.#options;
    const hasGitId = file.gitId !== null && file.sizeBytes !== null;
    const git = hasGitId ? createHash("sha1").update(`blob ${file.sizeBytes}\0`) : null;
    const writer = await createBlobWriter(blobDir);
    try {
      const write = async (chunk: Uint8Array): Promise<void> => {
        await writer.write(chunk);
        git?.update(chunk);
        this.#advance(name, chunk.length);
      };
      const sink = { at: () => writer.sizeBytes, write };
      const said = await this.#client.download(`${this.#prefix}/${encodeURIComponent(name)}`, sink, maxBytes);
      assertSame(name, "size", writer.sizeBytes, file.sizeBytes ?? said.sizeBytes);
      if (git !== null) assertSame(name, "git id", git.digest("hex"), file.gitId);
      assertSame(name, "SHA-256", writer.currentDigest(), file.sha256 ?? said.sha256);
      return placed(blobDir, name, await writer.finish());
    } finally {
      await writer.abort();
    }
  }

  #advance(name: string, bytes: number): void {
    if (!this.#counted.has(name)) return;
    this.#doneBytes += bytes;
    this.#options.onProgress?.(Math.min(this.#doneBytes, this.#weightBytes), 2 * this.#weightBytes);
  }
}
