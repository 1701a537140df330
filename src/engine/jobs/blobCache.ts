/**
 * The blob directory of a worker that does not share the server's: a cache of what its jobs read and wrote. Blobs
 * that a job needs are fetched from the API before it computes and held until it has; what it made is sent there
 * before anybody hears of it. The directory is bounded: what was unused longest goes, but nothing that a job holds
 * and nothing that the server may not have yet. It belongs to one process.
 */
import { readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { BlobClient } from "../checkpoint/blobClient.ts";
import { blobPath, keepYoung, removeIfThere, temporaryDir } from "../checkpoint/blobs.ts";

/** What jobs have done with blobs around their computations. */
export interface BlobTraffic {
  /** Makes blobs readable in the blob directory. @returns how to let go of them */
  bring(blobs: readonly NewBlob[], signal: AbortSignal): Promise<() => void>;
  /** Makes new blobs of the directory durable where everybody finds them. */
  deliver(blobs: readonly NewBlob[], signal: AbortSignal): Promise<void>;
}

/** Where the directory is the server's own: blobs are where they belong. */
export const sharedBlobs: BlobTraffic = {
  bring: () => Promise.resolve(() => undefined),
  deliver: () => Promise.resolve(),
};

export interface BlobCacheOptions {
  readonly blobDir: string;
  readonly client: BlobClient;
  /** Bytes of the directory, at most; what a running job writes may come on top until it is sent. */
  readonly maxBytes: number;
}

interface CachedFile extends NewBlob {
  readonly usedMs: number;
}

/** Pieces of a transfer that were not gone on with for so long are given up, ms. */
const partialLifetimeMs = 24 * 3_600_000;

export async function openBlobCache(options: BlobCacheOptions): Promise<BlobTraffic> {
  const cache = new BlobCache(options);
  await cache.open();
  return cache;
}

class BlobCache implements BlobTraffic {
  readonly #options: BlobCacheOptions;
  /** Digest -> jobs that hold it. */
  readonly #held = new Map<string, number>();
  /** What the server has: it may go. */
  readonly #known = new Set<string>();
  readonly #fetching = new Map<string, Promise<void>>();

  constructor(options: BlobCacheOptions) {
    this.#options = options;
  }

  /** Takes over what an earlier process left: the server has it, or nobody will ask for it. */
  async open(): Promise<void> {
    const { blobDir } = this.#options;
    for (const { digest } of await this.#files()) this.#known.add(digest);
    const folder = temporaryDir(blobDir);
    for (const name of await readdir(folder).catch(() => [])) {
      const file = await stat(join(folder, name)).catch(() => null);
      const isPart = name.endsWith(".part") && file !== null && Date.now() - file.mtimeMs < partialLifetimeMs;
      if (!isPart) await rm(join(folder, name), { force: true, recursive: true });
    }
    await this.#shrink(0);
  }

  async bring(blobs: readonly NewBlob[], signal: AbortSignal): Promise<() => void> {
    const digests = new Set(blobs.map(({ digest }) => digest));
    for (const digest of digests) this.#held.set(digest, (this.#held.get(digest) ?? 0) + 1);
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      for (const digest of digests) {
        const left = (this.#held.get(digest) ?? 1) - 1;
        if (left > 0) this.#held.set(digest, left);
        else this.#held.delete(digest);
      }
    };
    try {
      for (const blob of new Map(blobs.map((one) => [one.digest, one])).values()) await this.#ensure(blob, signal);
      return release;
    } catch (error) {
      release();
      throw error;
    }
  }

  async deliver(blobs: readonly NewBlob[], signal: AbortSignal): Promise<void> {
    const { client, blobDir } = this.#options;
    for (const blob of blobs) {
      await client.send(blobDir, blob, signal);
      this.#known.add(blob.digest);
    }
    if (blobs.length > 0) await this.#shrink(0);
  }

  async #ensure(blob: NewBlob, signal: AbortSignal): Promise<void> {
    const { blobDir } = this.#options;
    const path = blobPath(blobDir, blob.digest);
    const size = await stat(path).then(
      (file) => file.size,
      () => null,
    );
    if (size === blob.sizeBytes && (await keepYoung(path))) return;
    // two jobs that need one blob fetch it once; whoever waited looks again, since the other may have been stopped
    const other = this.#fetching.get(blob.digest);
    if (other) {
      await other.catch(() => undefined);
      signal.throwIfAborted();
      return this.#ensure(blob, signal);
    }
    const fetching = this.#fetch(blob, signal);
    this.#fetching.set(blob.digest, fetching);
    await fetching.finally(() => this.#fetching.delete(blob.digest));
  }

  async #fetch(blob: NewBlob, signal: AbortSignal): Promise<void> {
    await this.#shrink(blob.sizeBytes);
    await this.#options.client.fetch(this.#options.blobDir, blob, signal);
    this.#known.add(blob.digest);
  }

  /** Removes what was unused longest until there is room. @throws storage_full when what is held leaves none */
  async #shrink(roomBytes: number): Promise<void> {
    const { blobDir, maxBytes } = this.#options;
    const files = await this.#files();
    let total = roomBytes + files.reduce((sum, file) => sum + file.sizeBytes, 0);
    const free = files.filter(({ digest }) => this.#known.has(digest) && !this.#held.has(digest));
    for (const { digest, sizeBytes } of free.sort((a, b) => a.usedMs - b.usedMs)) {
      if (total <= maxBytes) return;
      await removeIfThere(blobPath(blobDir, digest));
      this.#known.delete(digest);
      total -= sizeBytes;
    }
    if (total <= maxBytes || roomBytes === 0) return;
    const use = `${roomBytes} bytes more are needed and ${total - roomBytes} are in use`;
    const message = `the worker's cache of blobs is too small: ${use}; BLOB_CACHE_BYTES is ${maxBytes}`;
    throw new CodedError("storage_full", message);
  }

  async #files(): Promise<CachedFile[]> {
    const { blobDir } = this.#options;
    const found: CachedFile[] = [];
    for (const path of await readdir(blobDir, { recursive: true }).catch(() => [])) {
      const digest = basename(path);
      if (!/^[0-9a-f]{64}$/.test(digest) || path !== join(digest.slice(0, 2), digest)) continue;
      const file = await stat(join(blobDir, path)).catch(() => null);
      if (file?.isFile()) found.push({ digest, sizeBytes: file.size, usedMs: file.mtimeMs });
    }
    return found;
  }
}
