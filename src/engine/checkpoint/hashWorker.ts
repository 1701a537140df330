/**
 * ENTRY of a hashing thread: takes byte ranges of files, one batch at a time, and answers with their
 * SHA-256. Reads are synchronous into one buffer that is used again, which is what keeps it as fast as
 * `openssl dgst`. It is ended by terminating the thread.
 */
import { createHash } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { parentPort } from "node:worker_threads";
import { hashOpenFlags, type HashAnswer, type HashBatch } from "./hashing.ts";

const bufferBytes = 1 << 20;
const buffer = new Uint8Array(bufferBytes);
/** Bytes hashed between two progress messages. */
const reportBytes = 64 << 20;

function answer(message: HashAnswer): void {
  parentPort?.postMessage(message);
}

function hashRange(fd: number, offset: number, sizeBytes: number): string {
  const hash = createHash("sha256");
  let done = 0;
  let reported = 0;
  while (done < sizeBytes) {
    const length = Math.min(bufferBytes, sizeBytes - done);
    const bytesRead = readSync(fd, buffer, 0, length, offset + done);
    if (bytesRead === 0) throw new RangeError(`the file ends at byte ${offset + done}, ${offset + sizeBytes} wanted`);
    hash.update(bytesRead === bufferBytes ? buffer : buffer.subarray(0, bytesRead));
    done += bytesRead;
    if (done - reported >= reportBytes) {
      answer({ type: "progress", bytes: done - reported });
      reported = done;
    }
  }
  answer({ type: "progress", bytes: done - reported });
  return hash.digest("hex");
}

parentPort?.on("message", (batch: HashBatch) => {
  const digests: string[] = [];
  let fd: number | null = null;
  let path: string | null = null;
  try {
    for (const range of batch.ranges) {
      if (range.path !== path) {
        if (fd !== null) closeSync(fd);
        fd = openSync(range.path, hashOpenFlags);
        path = range.path;
      }
      digests.push(hashRange(fd as number, range.offset, range.sizeBytes));
    }
    answer({ type: "done", indexes: batch.indexes, digests });
  } catch (error) {
    answer({ type: "failed", message: error instanceof Error ? error.message : String(error), path: path ?? "" });
  } finally {
    if (fd !== null) closeSync(fd);
  }
});
