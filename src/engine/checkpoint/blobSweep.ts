/**
 * Takes out of the blob directory what nobody needs: unfinished files left by a crash, and blobs that the
 * database does not know. Everything young is spared: a running job's blobs lie here before the transaction
 * that makes them known.
 */
import type { Dirent } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { blobPath, removeIfThere, temporaryDir } from "./blobs.ts";

export interface SweepOptions {
  /** Tells which of these digests the database knows; asked once per folder of the store. */
  readonly known: (digests: readonly string[]) => Promise<ReadonlySet<string>>;
  /** Unknown blobs younger than this stay, ms. */
  readonly graceMs: number;
  /** Unfinished files not written to for this long are dead, ms. */
  readonly temporaryAgeMs: number;
  readonly nowMs?: number;
  readonly signal?: AbortSignal;
}

export interface SweepResult {
  readonly removedTemporary: number;
  readonly removedBlobs: number;
  readonly freedBytes: number;
}

/** Removes dead unfinished files and unknown blobs that are old enough. */
export async function sweepBlobs(blobDir: string, options: SweepOptions): Promise<SweepResult> {
  const nowMs = options.nowMs ?? Date.now();
  const result = { removedTemporary: 0, removedBlobs: 0, freedBytes: 0 };
  const temporary = temporaryDir(blobDir);
  for (const entry of await entries(temporary)) {
    const freed = await removeOld(join(temporary, entry.name), nowMs - options.temporaryAgeMs, "changed");
    if (freed === null) continue;
    result.removedTemporary += 1;
    result.freedBytes += freed;
  }
  for (const folder of await entries(blobDir)) {
    if (!folder.isDirectory() || !/^[0-9a-f]{2}$/.test(folder.name)) continue;
    options.signal?.throwIfAborted();
    const names = (await entries(join(blobDir, folder.name))).map((entry) => entry.name);
    const digests = names.filter((name) => /^[0-9a-f]{64}$/.test(name) && name.startsWith(folder.name));
    if (digests.length === 0) continue;
    const known = await options.known(digests);
    const unknown = digests.filter((digest) => !known.has(digest));
    const removed = await removeBlobs(blobDir, unknown, { graceMs: options.graceMs, nowMs });
    result.removedBlobs += removed.removedBlobs;
    result.freedBytes += removed.freedBytes;
  }
  return result;
}

/**
 * Unlinks blobs that nothing refers to any more. Those written (or found again by a writer) within the
 * grace time stay: somebody is about to refer to them, and the next sweep will know.
 */
export async function removeBlobs(
  blobDir: string,
  digests: readonly string[],
  options: { graceMs: number; nowMs?: number },
): Promise<{ removedBlobs: number; freedBytes: number }> {
  const result = { removedBlobs: 0, freedBytes: 0 };
  const olderThanMs = (options.nowMs ?? Date.now()) - options.graceMs;
  for (const digest of digests) {
    const freed = await removeOld(blobPath(blobDir, digest), olderThanMs, "written");
    if (freed === null) continue;
    result.removedBlobs += 1;
    result.freedBytes += freed;
  }
  return result;
}

/**
 * @param since what makes a file young: that it was written to, or (for files lent to the folder of unfinished
 *   ones by link or rename, which keep their old time of writing) that anything about it changed
 * @returns the bytes freed, or null where the file is gone, young, or no file
 */
async function removeOld(path: string, olderThanMs: number, since: "written" | "changed"): Promise<number | null> {
  try {
    const stats = await stat(path);
    const youngMs = since === "written" ? stats.mtimeMs : Math.max(stats.mtimeMs, stats.ctimeMs);
    if (!stats.isFile() || youngMs > olderThanMs) return null;
    return (await removeIfThere(path)) ? stats.size : null;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

async function entries(path: string): Promise<Dirent[]> {
  try {
    return await readdir(path, { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
