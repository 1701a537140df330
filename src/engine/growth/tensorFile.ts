/**
 * A file that holds one tensor and nothing else, hashed while it is written: its SHA-256 is that of the tensor and of
 * the blob at once, so the bytes are hashed a single time. Writing is synchronous: it belongs to a thread that has
 * nothing else to do. Making it durable, and giving it its name in the store, is up to whoever ordered it.
 */
import { createHash, type Hash } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";
import { asStorageError } from "../checkpoint/blobs.ts";

export class TensorFile {
  readonly #fd: number;
  readonly #hash: Hash = createHash("sha256");
  #sizeBytes = 0;

  /** @param path of a file that does not exist yet. @throws storage_full */
  constructor(path: string) {
    try {
      this.#fd = openSync(path, "wx", 0o644);
    } catch (error) {
      throw asStorageError(error);
    }
  }

  /** Appends; the bytes may be reused when it returns. @throws storage_full */
  write(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    for (let done = 0; done < bytes.length;) {
      try {
        done += writeSync(this.#fd, bytes, done, bytes.length - done);
      } catch (error) {
        throw asStorageError(error);
      }
    }
    this.#sizeBytes += bytes.length;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** @returns the SHA-256 of all that was written, lowercase hex; nothing can be written after. */
  digest(): string {
    return this.#hash.digest("hex");
  }

  close(): void {
    closeSync(this.#fd);
  }
}
