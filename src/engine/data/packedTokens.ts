/**
 * Reads the token ids of a packed stream at any place: the shards of one side of a dataset as one long list.
 * Nothing is kept in memory but open files; sizes are checked when a shard is opened and ids when they are
 * read, so a damaged file cannot index past an embedding.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedDataset, TokenShard } from "../../ops/manifest.ts";
import { bytesPerToken } from "./shardWriter.ts";

/** Shards held open at once. */
const maxOpenShards = 8;

export class PackedTokens {
  readonly length: number;
  readonly #dataset: ResolvedDataset;
  readonly #shards: readonly TokenShard[];
  /** First token of every shard. */
  readonly #firstTokens: readonly number[];
  readonly #open = new Map<number, number>();

  constructor(dataset: ResolvedDataset, side: "train" | "validation") {
    this.#dataset = dataset;
    this.#shards = dataset.manifest[side];
    let total = 0;
    this.#firstTokens = this.#shards.map((shard) => {
      const first = total;
      total += shard.numTokens;
      return first;
    });
    this.length = total;
  }

  /**
   * Copies ids [start, start + target.length) of the stream into `target`.
   * @throws dataset_invalid when a shard is missing, has another size, or holds an id outside the vocabulary
   */
  read(start: number, target: Int32Array): void {
    if (start < 0 || start + target.length > this.length) {
      throw new Error(`invariant: tokens ${start} to ${start + target.length} of a stream of ${this.length}`);
    }
    let shardIndex = this.#findShard(start);
    let done = 0;
    while (done < target.length) {
      const shard = this.#shards[shardIndex];
      if (!shard) throw new Error("invariant: the stream ends within its shards");
      const inShard = start + done - (this.#firstTokens[shardIndex] ?? 0);
      const count = Math.min(target.length - done, shard.numTokens - inShard);
      this.#readShard(shardIndex, shard, inShard, target.subarray(done, done + count));
      done += count;
      shardIndex += 1;
    }
  }

  /** Closes the files; reading again opens them again. */
  close(): void {
    for (const file of this.#open.values()) closeSync(file);
    this.#open.clear();
  }

  #findShard(token: number): number {
    let low = 0;
    let high = this.#shards.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#firstTokens[middle] ?? 0) <= token) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #readShard(shardIndex: number, shard: TokenShard, inShard: number, target: Int32Array): void {
    const { tokenDtype, vocabSize } = this.#dataset.manifest;
    const width = bytesPerToken(tokenDtype);
    const bytes = new Uint8Array(target.length * width);
    const file = this.#openShard(shardIndex, shard);
    let done = 0;
    while (done < bytes.length) {
      const count = readSync(file, bytes, done, bytes.length - done, inShard * width + done);
      if (count === 0) throw this.#damaged(shard, "it ended while it was read");
      done += count;
    }
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < target.length; i++) {
      const id = width === 2 ? view.getUint16(i * 2, true) : view.getUint32(i * 4, true);
      if (id >= vocabSize) throw this.#damaged(shard, `token ${inShard + i} is ${id}, below ${vocabSize} is wanted`);
      target[i] = id;
    }
  }

  #openShard(shardIndex: number, shard: TokenShard): number {
    const known = this.#open.get(shardIndex);
    if (known !== undefined) return known;
    for (const [oldest, file] of this.#open) {
      if (this.#open.size < maxOpenShards) break;
      this.#open.delete(oldest);
      closeSync(file);
    }
    const { blobs, manifest } = this.#dataset;
    const location = Object.hasOwn(blobs, shard.blob) ? blobs[shard.blob] : undefined;
    if (!location) throw this.#damaged(shard, "its blob is not here");
    let file: number;
    try {
      file = openSync(location.path, "r");
    } catch (cause) {
      throw this.#damaged(shard, "its file cannot be opened", cause);
    }
    const size = fstatSync(file).size;
    const wanted = shard.numTokens * bytesPerToken(manifest.tokenDtype);
    if (size !== wanted) {
      closeSync(file);
      throw this.#damaged(shard, `its file has ${size} bytes, ${wanted} are wanted`);
    }
    this.#open.set(shardIndex, file);
    return file;
  }

  #damaged(shard: TokenShard, problem: string, cause?: unknown): CodedError {
    const message = `dataset ${this.#dataset.id}: shard ${shard.blob.slice(0, 12)}: ${problem}`;
    return new CodedError("dataset_invalid", message, { cause });
  }
}
