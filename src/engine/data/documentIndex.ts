/**
 * Where every document of a corpus lies and what identifies it, in flat arrays: 36 bytes a document, so that
 * a corpus of millions of documents is indexed without being held. Not the text: that is read when its turn
 * comes.
 */
import { CodedError } from "../../ops/errors.ts";

/** Documents of one dataset, at most; their index then takes some 400 MB while the dataset is built. */
export const maxDocuments = 8_000_000;
/** Bytes of the SHA-256 of a document's content that are kept. */
export const hashBytes = 16;

export interface DocumentEntry {
  /** Index of the file, or of the inline text. */
  readonly file: number;
  /** Bytes [start, end) of the file; for inline text 0 and its length. */
  readonly start: number;
  readonly end: number;
}

export class DocumentIndex {
  #length = 0;
  #files = new Uint32Array(1024);
  #starts = new Float64Array(1024);
  #ends = new Float64Array(1024);
  #hashes = Buffer.alloc(1024 * hashBytes);

  get length(): number {
    return this.#length;
  }

  /** @throws dataset_invalid when there are too many documents */
  add(entry: DocumentEntry, hash: Uint8Array): void {
    if (this.#length === maxDocuments) {
      throw new CodedError("dataset_invalid", `more than ${maxDocuments} documents in one dataset`);
    }
    if (this.#length === this.#files.length) this.#grow();
    this.#files[this.#length] = entry.file;
    this.#starts[this.#length] = entry.start;
    this.#ends[this.#length] = entry.end;
    this.#hashes.set(hash.subarray(0, hashBytes), this.#length * hashBytes);
    this.#length += 1;
  }

  entry(index: number): DocumentEntry {
    return { file: this.#files[index] ?? 0, start: this.#starts[index] ?? 0, end: this.#ends[index] ?? 0 };
  }

  /** @returns the first 16 bytes of the SHA-256 of the content; equal for duplicated documents. */
  hash(index: number): Buffer {
    return this.#hashes.subarray(index * hashBytes, (index + 1) * hashBytes);
  }

  #grow(): void {
    const capacity = this.#files.length * 2;
    const files = new Uint32Array(capacity);
    const starts = new Float64Array(capacity);
    const ends = new Float64Array(capacity);
    const hashes = Buffer.alloc(capacity * hashBytes);
    files.set(this.#files);
    starts.set(this.#starts);
    ends.set(this.#ends);
    hashes.set(this.#hashes);
    this.#files = files;
    this.#starts = starts;
    this.#ends = ends;
    this.#hashes = hashes;
  }
}
