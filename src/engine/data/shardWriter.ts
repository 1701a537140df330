/**
 * Writes token ids as shards: blobs of little-endian integers without a header, of a bounded size, cut without
 * regard to documents. The cut depends on the count of tokens alone, so equal tokens make equal shards.
 */
import type { NewBlob } from "../../ops/events.ts";
import type { TokenShard } from "../../ops/manifest.ts";
import type { BlobWriter } from "../checkpoint/blobs.ts";
import { createBlobWriter } from "../checkpoint/blobs.ts";

/** Tokens in a shard, at most: 32 MiB of u16. */
export const shardTokens = 16 * 1024 * 1024;

export type TokenDtype = "u16" | "u32";

/** @returns the narrowest type that holds every id below `vocabSize`. */
export function tokenDtypeFor(vocabSize: number): TokenDtype {
  return vocabSize <= 0x10000 ? "u16" : "u32";
}

export function bytesPerToken(dtype: TokenDtype): 2 | 4 {
  return dtype === "u16" ? 2 : 4;
}

function toBytes(ids: Uint32Array, dtype: TokenDtype): Uint8Array {
  const bytes = new Uint8Array(ids.length * bytesPerToken(dtype));
  const view = new DataView(bytes.buffer);
  if (dtype === "u16") ids.forEach((id, index) => view.setUint16(index * 2, id, true));
  else ids.forEach((id, index) => view.setUint32(index * 4, id, true));
  return bytes;
}

export class ShardWriter {
  readonly #blobDir: string;
  readonly #dtype: TokenDtype;
  readonly #limit: number;
  #writer: BlobWriter | null = null;
  #inShard = 0;
  readonly shards: TokenShard[] = [];
  readonly blobs: NewBlob[] = [];
  numTokens = 0;

  /** @param limit tokens in a shard, at most; given by tests only */
  constructor(blobDir: string, dtype: TokenDtype, limit = shardTokens) {
    this.#blobDir = blobDir;
    this.#dtype = dtype;
    this.#limit = limit;
  }

  /** @throws storage_full */
  async write(ids: Uint32Array): Promise<void> {
    let rest = ids;
    while (rest.length > 0) {
      this.#writer ??= await createBlobWriter(this.#blobDir);
      const part = rest.subarray(0, this.#limit - this.#inShard);
      await this.#writer.write(toBytes(part, this.#dtype));
      this.#inShard += part.length;
      this.numTokens += part.length;
      rest = rest.subarray(part.length);
      if (this.#inShard === this.#limit) await this.finish();
    }
  }

  /** Ends the shard being written, if any. @throws storage_full */
  async finish(): Promise<void> {
    if (!this.#writer) return;
    const writer = this.#writer;
    const numTokens = this.#inShard;
    this.#writer = null;
    this.#inShard = 0;
    const blob = await writer.finish();
    this.blobs.push(blob);
    this.shards.push({ blob: blob.digest, numTokens });
  }

  /** Drops the unfinished shard; finished ones are left to the sweep. */
  async abort(): Promise<void> {
    await this.#writer?.abort();
    this.#writer = null;
  }
}
