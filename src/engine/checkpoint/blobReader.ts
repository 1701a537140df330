/**
 * Ranged reads from a blob, wherever it lies: in the store, or in a file registered by reference. Such a
 * file belongs to somebody else; its size and modification time are compared with those at registration
 * whenever it is opened, and any difference is `source_changed`. The full check, by SHA-256, is
 * `verifyBlob`.
 */
import { createHash } from "node:crypto";
import { constants, readSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { BlobLocation } from "../../ops/manifest.ts";

/** Bytes read at once where a whole file goes through memory. */
export const readChunkBytes = 1 << 20;
/** Node refuses to read 2 GiB or more in one call. */
const maxReadBytes = 1 << 30;

/** An open blob. Reads are positional, so several may run at once. */
export class BlobReader {
  readonly sizeBytes: number;
  readonly #location: BlobLocation;
  readonly #handle: FileHandle;

  /** Use `openBlob`. */
  constructor(location: BlobLocation, handle: FileHandle) {
    this.#location = location;
    this.sizeBytes = location.sizeBytes;
    this.#handle = handle;
  }

  /**
   * Fills `target` from byte `offset` of the blob.
   * @throws source_changed or checkpoint_corrupt when the file ends before that
   */
  async readInto(target: Uint8Array, offset: number): Promise<void> {
    let done = 0;
    while (done < target.length) {
      const length = Math.min(target.length - done, maxReadBytes);
      const { bytesRead } = await this.#handle.read(target, done, length, offset + done);
      if (bytesRead === 0) throw changed(this.#location, `it ends before byte ${offset + target.length}`);
      done += bytesRead;
    }
  }

  /** The same at once, for a thread that has nothing else to do. @throws as `readInto` */
  readIntoSync(target: Uint8Array, offset: number): void {
    let done = 0;
    while (done < target.length) {
      const length = Math.min(target.length - done, maxReadBytes);
      const bytesRead = readSync(this.#handle.fd, target, done, length, offset + done);
      if (bytesRead === 0) throw changed(this.#location, `it ends before byte ${offset + target.length}`);
      done += bytesRead;
    }
  }

  /** @returns a new array of the bytes from `offset` on, `length` of them. */
  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    // Not zeroed first: every byte is read, or nothing is returned.
    const target = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
    await this.readInto(target, offset);
    return target;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

function changed(location: BlobLocation, problem: string): CodedError {
  if (location.mtimeMs === null) return new CodedError("checkpoint_corrupt", `blob ${location.path}: ${problem}`);
  const hint = "register the checkpoint again, or restore the file";
  return new CodedError("source_changed", `${location.path} is no longer what was registered: ${problem}; ${hint}`);
}

/**
 * Opens a blob for reading.
 * @throws source_changed when a file registered by reference is gone, or has another size or time
 * @throws checkpoint_corrupt when a blob of the store is missing or has another size
 */
export async function openBlob(location: BlobLocation): Promise<BlobReader> {
  let handle: FileHandle;
  try {
    // Should the path have become a pipe, opening must not wait for a writer (O_NONBLOCK); a file of somebody
    // else's was registered without links, so a link there now is another file (O_NOFOLLOW).
    const noFollow = location.mtimeMs === null ? 0 : constants.O_NOFOLLOW;
    handle = await open(location.path, constants.O_RDONLY | constants.O_NONBLOCK | noFollow);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR" || code === "ENXIO") throw changed(location, "it is gone");
    if (code === "ELOOP") throw changed(location, "it became a link");
    if (code === "EACCES" || code === "EPERM") throw changed(location, "it is not readable");
    throw error;
  }
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw changed(location, "it is not a regular file");
    if (stats.size !== location.sizeBytes) {
      throw changed(location, `it has ${stats.size} bytes, ${location.sizeBytes} wanted`);
    }
    if (location.mtimeMs !== null && stats.mtimeMs !== location.mtimeMs) throw changed(location, "it was modified");
    return new BlobReader(location, handle);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/**
 * Reads a whole blob into memory; for small files.
 * @throws checkpoint_unsupported when it is larger than `maxBytes`
 */
export async function readBlob(location: BlobLocation, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  if (location.sizeBytes > maxBytes) {
    const problem = `${location.sizeBytes} bytes, at most ${maxBytes} are read into memory`;
    throw new CodedError("checkpoint_unsupported", `blob ${location.path}: ${problem}`);
  }
  const reader = await openBlob(location);
  try {
    return await reader.read(0, location.sizeBytes);
  } finally {
    await reader.close();
  }
}

/**
 * Reads the whole blob and compares its SHA-256.
 * @throws source_changed or checkpoint_corrupt when it is not `digest`
 */
export async function verifyBlob(location: BlobLocation, digest: string, signal?: AbortSignal): Promise<void> {
  const reader = await openBlob(location);
  try {
    const hash = createHash("sha256");
    const buffer = new Uint8Array(Math.min(readChunkBytes, location.sizeBytes));
    for (let offset = 0; offset < location.sizeBytes; offset += buffer.length) {
      signal?.throwIfAborted();
      const chunk = buffer.subarray(0, Math.min(buffer.length, location.sizeBytes - offset));
      await reader.readInto(chunk, offset);
      hash.update(chunk);
    }
    const got = hash.digest("hex");
    if (got !== digest) throw changed(location, `its SHA-256 is ${got}, ${digest} wanted`);
  } finally {
    await reader.close();
  }
}
