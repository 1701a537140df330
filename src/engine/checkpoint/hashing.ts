/**
 * SHA-256 of many byte ranges at once, in worker threads. A checkpoint needs the digest of each file and of
 * each tensor: two passes over the same bytes. As ranges of one list they are spread over the cores, the
 * longest first, so that on two cores both passes together take the time of one. Small lists are hashed
 * right here, because starting a thread costs more than they do.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { CodedError } from "../../ops/errors.ts";

export interface ByteRange {
  readonly path: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface HashBatch {
  readonly indexes: readonly number[];
  readonly ranges: readonly ByteRange[];
}

export type HashAnswer =
  | { readonly type: "progress"; readonly bytes: number }
  | { readonly type: "done"; readonly indexes: readonly number[]; readonly digests: readonly string[] }
  | { readonly type: "failed"; readonly message: string; readonly path: string };

export interface HashOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with bytes hashed so far and bytes in all. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  /** Threads, at most; by default the cores, at most 4. */
  readonly threads?: number;
  /** Below this many bytes no thread is started. */
  readonly inlineBytes?: number;
}

/** Neither a link nor a pipe put in a file's place since it was looked at is followed or waited for. */
export const hashOpenFlags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

const maxThreads = 4;
const defaultInlineBytes = 16 << 20;
/** A batch for a thread holds about this many bytes, or one longer range. */
const batchBytes = 64 << 20;
const chunkBytes = 1 << 20;

/**
 * Hashes every range.
 * @returns lowercase hex digests in the order of `ranges`
 * @throws source_changed when a file is shorter than a range says or cannot be read; cancelled by `signal`
 */
export async function hashRanges(ranges: readonly ByteRange[], options: HashOptions = {}): Promise<string[]> {
  const totalBytes = ranges.reduce((sum, range) => sum + range.sizeBytes, 0);
  options.signal?.throwIfAborted();
  let doneBytes = 0;
  const progressed = (bytes: number): void => {
    doneBytes += bytes;
    options.onProgress?.(doneBytes, totalBytes);
  };
  if (totalBytes === 0 || totalBytes < (options.inlineBytes ?? defaultInlineBytes)) {
    return hashInline(ranges, progressed, options.signal);
  }
  const batches = batched(ranges);
  const threads = Math.min(options.threads ?? Math.min(availableParallelism(), maxThreads), batches.length);
  return hashInThreads(batches, threads, ranges.length, progressed, options.signal);
}

/** Long ranges alone, short ones together; longest batches first so that no core ends up waiting. */
function batched(ranges: readonly ByteRange[]): HashBatch[] {
  const batches: { indexes: number[]; ranges: ByteRange[]; bytes: number }[] = [];
  let current: (typeof batches)[number] | undefined;
  ranges.forEach((range, index) => {
    if (range.sizeBytes >= batchBytes) {
      batches.push({ indexes: [index], ranges: [range], bytes: range.sizeBytes });
      return;
    }
    if (current === undefined || current.bytes + range.sizeBytes > batchBytes) {
      current = { indexes: [], ranges: [], bytes: 0 };
      batches.push(current);
    }
    current.indexes.push(index);
    current.ranges.push(range);
    current.bytes += range.sizeBytes;
  });
  return batches.sort((a, b) => b.bytes - a.bytes);
}

async function hashInThreads(
  batches: HashBatch[],
  threads: number,
  count: number,
  progressed: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const digests = new Array<string>(count);
  const workers: Worker[] = [];
  const running = Promise.withResolvers<void>();
  const onAbort = (): void => running.reject(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  let next = 0;
  let left = batches.length;
  const feed = (worker: Worker): void => {
    const batch = batches[next];
    next += 1;
    if (batch !== undefined) worker.postMessage(batch);
  };
  try {
    for (let index = 0; index < threads; index += 1) {
      const worker = new Worker(new URL("./hashWorker.ts", import.meta.url));
      workers.push(worker);
      worker.on("error", (cause) => running.reject(new Error("a hashing thread failed", { cause })));
      worker.on("exit", () => running.reject(new Error("a hashing thread ended early")));
      worker.on("message", (answer: HashAnswer) => {
        if (answer.type === "progress") return progressed(answer.bytes);
        if (answer.type === "failed") return running.reject(unreadable(answer.path, answer.message));
        answer.indexes.forEach((at, position) => (digests[at] = answer.digests[position] ?? ""));
        left -= 1;
        if (left === 0) running.resolve();
        feed(worker);
      });
      feed(worker);
    }
    await running.promise;
    return digests;
  } finally {
    signal?.removeEventListener("abort", onAbort);
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function unreadable(path: string, problem: string): CodedError {
  return new CodedError("source_changed", `${path} could not be read to its end: ${problem}`);
}

async function openOrFail(path: string): Promise<FileHandle> {
  try {
    return await open(path, hashOpenFlags);
  } catch (cause) {
    throw unreadable(path, (cause as Error).message);
  }
}

async function hashInline(
  ranges: readonly ByteRange[],
  progressed: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const digests: string[] = [];
  const buffer = new Uint8Array(chunkBytes);
  let path: string | null = null;
  let handle: FileHandle | null = null;
  try {
    for (const range of ranges) {
      signal?.throwIfAborted();
      if (handle === null || range.path !== path) {
        await handle?.close();
        handle = null;
        handle = await openOrFail(range.path);
        path = range.path;
      }
      const hash = createHash("sha256");
      for (let done = 0; done < range.sizeBytes;) {
        const length = Math.min(chunkBytes, range.sizeBytes - done);
        const { bytesRead } = await handle.read(buffer, 0, length, range.offset + done);
        if (bytesRead === 0) throw unreadable(range.path, `it ends at byte ${range.offset + done}`);
        hash.update(buffer.subarray(0, bytesRead));
        done += bytesRead;
      }
      digests.push(hash.digest("hex"));
      progressed(range.sizeBytes);
    }
    return digests;
  } finally {
    await handle?.close();
  }
}
