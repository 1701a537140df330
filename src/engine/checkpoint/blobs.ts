/**
 * The content-addressed store: immutable files named by the SHA-256 of their bytes, in `DIR/ab/abcd...`.
 * A blob is written under `DIR/tmp`, hashed on the way, synced, and renamed to its name in one step, so a
 * half-written file is never visible under a digest. This file writes; `blobReader.ts` reads and
 * `blobSweep.ts` removes. It knows nothing of the database: which blobs are needed is told to it.
 */
import { createHash, randomUUID } from "node:crypto";
import type { Hash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { mkdir, open, rename, stat, unlink, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { BlobLocation } from "../../ops/manifest.ts";

/** Node refuses to write 2 GiB or more in one call. */
const maxWriteBytes = 1 << 30;
const digestPattern = /^[0-9a-f]{64}$/;

/** @throws checkpoint_corrupt unless `digest` is 64 lowercase hex digits; so no digest can leave the directory */
export function assertDigest(digest: string): void {
  if (!digestPattern.test(digest)) {
    throw new CodedError("checkpoint_corrupt", `not a SHA-256: ${JSON.stringify(digest.slice(0, 80))}`);
  }
}

/** @returns where a blob of the directory lies. @throws checkpoint_corrupt for anything but a digest */
export function blobPath(blobDir: string, digest: string): string {
  assertDigest(digest);
  return join(blobDir, digest.slice(0, 2), digest);
}

/** @returns the location of a blob of the directory, as manifests are resolved to. */
export function blobLocation(blobDir: string, blob: NewBlob): BlobLocation {
  return { path: blobPath(blobDir, blob.digest), sizeBytes: blob.sizeBytes, mtimeMs: null };
}

/** @returns the folder of unfinished files; the sweep empties it. */
export function temporaryDir(blobDir: string): string {
  return join(blobDir, "tmp");
}

/** Turns a full disk into its own error; every other error passes unchanged. */
export function asStorageError(error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new CodedError("storage_full", "no space left in the data directory", { cause: error });
}

/** Makes a directory's entries durable. */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Makes a blob young, so that a sweep on its way spares it. @returns false when it has just been swept */
export async function keepYoung(path: string): Promise<boolean> {
  const now = new Date();
  return utimes(path, now, now).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
      return false;
    },
  );
}

/** A finished, synced file of the same file system, and the blob it is to become. */
export interface FinishedFile {
  readonly path: string;
  readonly blob: NewBlob;
}

/**
 * Gives finished files their names in the store, and makes the names durable. Where a blob exists, the new file is
 * dropped and the old one made young again, so that a sweep on its way spares it.
 */
export async function publishFiles(blobDir: string, files: readonly FinishedFile[]): Promise<void> {
  const changedFolders = new Set<string>();
  for (const { path, blob } of files) {
    const target = blobPath(blobDir, blob.digest);
    if ((await sizeOf(target)) === blob.sizeBytes && (await keepYoung(target))) {
      await removeIfThere(path);
      continue;
    }
    const folder = dirname(target);
    if ((await mkdir(folder, { recursive: true })) !== undefined) changedFolders.add(blobDir);
    await rename(path, target);
    changedFolders.add(folder);
  }
  await Promise.all([...changedFolders].map(syncDirectory));
}

/** One blob being written. Exactly one of `finish` and `abort` ends it; memory is what the caller passes. */
export class BlobWriter {
  readonly #blobDir: string;
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #hash: Hash = createHash("sha256");
  #sizeBytes = 0;
  #open = true;

  /** Use `createBlobWriter`. */
  constructor(blobDir: string, path: string, handle: FileHandle) {
    this.#blobDir = blobDir;
    this.#path = path;
    this.#handle = handle;
  }

  /** Bytes written so far. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** @returns SHA-256 of what was written so far, so that a wrong blob is never made visible. */
  currentDigest(): string {
    return this.#hash.copy().digest("hex");
  }

  /**
   * Appends; the bytes may be reused once the promise has resolved.
   * @throws storage_full
   */
  async write(bytes: Uint8Array): Promise<void> {
    this.#assertOpen();
    const writing = this.#writeAll(bytes);
    this.#hash.update(bytes); // while the system writes
    await writing;
    this.#sizeBytes += bytes.length;
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    let done = 0;
    try {
      while (done < bytes.length) {
        const { bytesWritten } = await this.#handle.write(bytes, done, Math.min(bytes.length - done, maxWriteBytes));
        done += bytesWritten;
      }
    } catch (error) {
      throw asStorageError(error);
    }
  }

  /**
   * Makes the blob durable and visible under its digest.
   * @throws storage_full; then nothing is visible and the unfinished file is gone
   */
  async finish(): Promise<NewBlob> {
    this.#assertOpen();
    this.#open = false;
    const blob = { digest: this.#hash.digest("hex"), sizeBytes: this.#sizeBytes };
    try {
      try {
        await this.#handle.sync();
      } finally {
        await this.#handle.close();
      }
      await publishFiles(this.#blobDir, [{ path: this.#path, blob }]);
    } catch (error) {
      await removeIfThere(this.#path);
      throw asStorageError(error);
    }
    return blob;
  }

  /** Drops what was written; safe after `finish` and twice. */
  async abort(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
    await removeIfThere(this.#path);
  }

  #assertOpen(): void {
    if (!this.#open) throw new Error("the blob writer has ended");
  }
}

/** Unlinks a file; one that is gone already is fine. */
export async function removeIfThere(path: string): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

/**
 * Starts a blob in the directory, which is made where it does not exist.
 * @throws storage_full
 */
export async function createBlobWriter(blobDir: string): Promise<BlobWriter> {
  const folder = temporaryDir(blobDir);
  try {
    await mkdir(folder, { recursive: true });
    const path = join(folder, randomUUID());
    return new BlobWriter(blobDir, path, await open(path, "wx", 0o644));
  } catch (error) {
    throw asStorageError(error);
  }
}

/** Writes bytes held in memory as one blob. @throws storage_full */
export async function writeBlob(blobDir: string, bytes: Uint8Array): Promise<NewBlob> {
  const writer = await createBlobWriter(blobDir);
  try {
    await writer.write(bytes);
    return await writer.finish();
  } finally {
    await writer.abort();
  }
}
