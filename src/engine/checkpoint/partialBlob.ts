/**
 * A blob that arrives over a network in pieces: an unfinished file under the digest that it will have once it is
 * whole, so that a transfer goes on where an earlier one was cut, in another process too. Pieces are written where
 * they belong, so two senders of the same bytes do no harm. It becomes visible when its SHA-256 is what was
 * promised, in one step; a file that turns out to hold other bytes is removed. Dead ones are swept like any
 * unfinished file.
 */
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { mkdir, open, stat } from "node:fs/promises";
import { join } from "node:path";
import { createHash } from "node:crypto";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import { readChunkBytes } from "./blobReader.ts";
import { asStorageError, assertDigest, publishFiles, removeIfThere, temporaryDir } from "./blobs.ts";

function partialPath(blobDir: string, digest: string): string {
  assertDigest(digest);
  return join(temporaryDir(blobDir), `${digest}.part`);
}

/** @returns bytes that an unfinished blob has from its beginning on; 0 where there is none. */
export async function partialBytes(blobDir: string, digest: string): Promise<number> {
  return stat(partialPath(blobDir, digest)).then(
    (file) => file.size,
    () => 0,
  );
}

/** An unfinished blob that is open for writing. `finish` or `close` ends it; closed, it can be gone on with. */
export class PartialBlob {
  readonly #blobDir: string;
  readonly #blob: NewBlob;
  readonly #path: string;
  readonly #handle: FileHandle;
  #sizeBytes: number;

  private constructor(blobDir: string, blob: NewBlob, handle: FileHandle, sizeBytes: number) {
    this.#blobDir = blobDir;
    this.#blob = blob;
    this.#path = partialPath(blobDir, blob.digest);
    this.#handle = handle;
    this.#sizeBytes = sizeBytes;
  }

  /** Opens the unfinished file of a blob, or begins one. @throws storage_full */
  static async open(blobDir: string, blob: NewBlob): Promise<PartialBlob> {
    const path = partialPath(blobDir, blob.digest);
    try {
      await mkdir(temporaryDir(blobDir), { recursive: true });
      const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o644);
      return new PartialBlob(blobDir, blob, handle, (await handle.stat()).size);
    } catch (error) {
      throw asStorageError(error);
    }
  }

  /** Bytes that are there from the beginning on. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /**
   * Writes bytes where they belong; they may follow what is there or repeat it.
   * @throws conflict when they begin beyond it, payload_too_large when they go beyond the blob, storage_full
   */
  async write(bytes: Uint8Array, offset: number): Promise<void> {
    const { digest, sizeBytes } = this.#blob;
    if (offset > this.#sizeBytes) {
      const message = `blob ${digest} has ${this.#sizeBytes} bytes so far; the next may not begin at ${offset}`;
      throw new CodedError("conflict", message, { details: { offset_bytes: this.#sizeBytes } });
    }
    if (offset + bytes.length > sizeBytes) {
      throw new CodedError("payload_too_large", `blob ${digest} has ${sizeBytes} bytes; more were sent`);
    }
    try {
      for (let done = 0; done < bytes.length;) {
        done += (await this.#handle.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
      }
    } catch (error) {
      throw asStorageError(error);
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + bytes.length);
  }

  /**
   * Checks the whole and makes it visible under its digest.
   * @throws checkpoint_corrupt when it is not what its digest says; then nothing of it is left
   */
  async finish(signal?: AbortSignal): Promise<void> {
    try {
      const got = await this.#hash(signal);
      if (got !== this.#blob.digest || this.#sizeBytes !== this.#blob.sizeBytes) {
        await removeIfThere(this.#path);
        const message = `the ${this.#sizeBytes} bytes that arrived have SHA-256 ${got}, ${this.#blob.digest} wanted`;
        throw new CodedError("checkpoint_corrupt", message);
      }
      await this.#handle.sync();
      await publishFiles(this.#blobDir, [{ path: this.#path, blob: this.#blob }]);
    } catch (error) {
      throw asStorageError(error);
    } finally {
      await this.#handle.close();
    }
  }

  async #hash(signal: AbortSignal | undefined): Promise<string> {
    const hash = createHash("sha256");
    const buffer = new Uint8Array(readChunkBytes);
    for (let offset = 0; ;) {
      signal?.throwIfAborted();
      const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, offset);
      if (bytesRead === 0) return hash.digest("hex");
      hash.update(buffer.subarray(0, bytesRead));
      offset += bytesRead;
    }
  }

  /** Leaves it for later. */
  async close(): Promise<void> {
    await this.#handle.close();
  }

  /** Gives it up. */
  async discard(): Promise<void> {
    await this.#handle.close();
    await removeIfThere(this.#path);
  }
}
