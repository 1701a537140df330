/**
 * The text of a document, in pieces: a long document is never held whole. Pieces end after a line break where
 * there is one; they are tokenized each by itself, so a Llama tokenizer sees a new beginning every half
 * megabyte of one document. In `.txt` and `.md` files CRLF becomes LF. Text that is not UTF-8 is an error
 * that names the file.
 */
import type { FileHandle } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import { openSource, readFully } from "../checkpoint/confine.ts";
import type { DocumentEntry } from "./documentIndex.ts";
import { parseJsonlText } from "./scan.ts";
import type { CorpusFile } from "./sources.ts";
import type { DocumentPart } from "./split.ts";

/** Bytes (or UTF-16 units) of a piece, at most. */
export const pieceSize = 512 * 1024;
/** Files held open at once. */
const maxOpenFiles = 32;
/** How far a cut is moved forward in search of a line break, bytes. */
const cutSearchBytes = 64 * 1024;

const newline = 0x0a;

/** Inline texts, or files: where an index entry points. */
export interface Corpus {
  readonly files: readonly CorpusFile[];
  readonly texts: readonly string[];
}

/** Whether a character of UTF-8 goes on at this byte. */
function isContinuation(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0xc0) === 0x80;
}

/** Length of the piece at the front of `bytes`, more of which follow: ends at a line break, else at a character. */
function pieceLength(bytes: Uint8Array): number {
  const afterNewline = bytes.lastIndexOf(newline) + 1;
  if (afterNewline > 0) return afterNewline;
  let length = bytes.length - 1;
  while (length > bytes.length - 4 && isContinuation(bytes[length])) length--;
  return length;
}

/** Splits a string into pieces after line breaks, never within a surrogate pair. */
function* cutString(text: string): Generator<string> {
  let start = 0;
  while (text.length - start > pieceSize) {
    const slice = text.slice(start, start + pieceSize);
    let length = slice.lastIndexOf("\n") + 1;
    if (length === 0) length = /[\uD800-\uDBFF]$/.test(slice) ? slice.length - 1 : slice.length;
    yield text.slice(start, start + length);
    start += length;
  }
  if (start < text.length) yield text.slice(start);
}

/** Where a text is cut in two: after the first line break from the wanted place on, else right there. */
function cutPlace(text: string, fraction: number): number {
  const wanted = Math.floor(text.length * (1 - fraction));
  const found = text.indexOf("\n", wanted) + 1;
  if (found > 0 && found < text.length && found - wanted < cutSearchBytes) return found;
  return /[\uD800-\uDBFF]/.test(text.charAt(wanted - 1)) ? wanted - 1 : wanted;
}

/** Reads documents of a corpus; files stay open between documents. `close` it. */
export class DocumentReader {
  readonly #corpus: Corpus;
  readonly #fraction: number;
  readonly #open = new Map<number, FileHandle>();

  /** @param fraction share of a document in its `tail` */
  constructor(corpus: Corpus, fraction: number) {
    this.#corpus = corpus;
    this.#fraction = fraction;
  }

  /**
   * @returns the text of one document, or of one side of it, in order
   * @throws dataset_invalid when it is not UTF-8; source_changed when the file is no longer what was indexed
   */
  async *read(entry: DocumentEntry, part: DocumentPart): AsyncGenerator<string> {
    const file = this.#corpus.files[entry.file];
    if (!file) yield* this.#cut(this.#corpus.texts[entry.file] ?? "", part);
    else if (file.kind === "jsonl") {
      const line = await readFully(await this.#handle(entry.file, file), file, entry.start, entry.end - entry.start);
      yield* this.#cut(parseJsonlText(line, file.name), part);
    } else yield* this.#readText(entry, file, part);
  }

  async close(): Promise<void> {
    const handles = [...this.#open.values()];
    this.#open.clear();
    await Promise.all(handles.map((handle) => handle.close()));
  }

  *#cut(text: string, part: DocumentPart): Generator<string> {
    if (part === "all") yield* cutString(text);
    else {
      const place = cutPlace(text, this.#fraction);
      yield* cutString(part === "head" ? text.slice(0, place) : text.slice(place));
    }
  }

  async *#readText(entry: DocumentEntry, file: CorpusFile, part: DocumentPart): AsyncGenerator<string> {
    let { start, end } = entry;
    if (part !== "all") {
      const place = await this.#findCut(entry, file);
      if (part === "head") end = place;
      else start = place;
    }
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    while (start < end) {
      const handle = await this.#handle(entry.file, file);
      const bytes = await readFully(handle, file, start, Math.min(pieceSize, end - start));
      const length = start + bytes.length < end ? pieceLength(bytes) : bytes.length;
      let text: string;
      try {
        text = decoder.decode(bytes.subarray(0, length));
      } catch (cause) {
        const where = `between bytes ${start} and ${start + length}`;
        throw new CodedError("dataset_invalid", `${file.name}: not UTF-8 ${where}`, { cause });
      }
      yield text.replaceAll("\r\n", "\n");
      start += length;
    }
  }

  /** The byte at which a document of a text file is cut in two; both files and strings prefer a line break. */
  async #findCut(entry: DocumentEntry, file: CorpusFile): Promise<number> {
    const wanted = entry.start + Math.floor((entry.end - entry.start) * (1 - this.#fraction));
    const length = Math.min(cutSearchBytes, entry.end - wanted);
    const bytes = await readFully(await this.#handle(entry.file, file), file, wanted, length);
    const found = bytes.indexOf(newline) + 1;
    if (found > 0 && wanted + found < entry.end) return wanted + found;
    let place = 0;
    while (isContinuation(bytes[place])) place++;
    return wanted + place;
  }

  async #handle(fileIndex: number, file: CorpusFile): Promise<FileHandle> {
    const known = this.#open.get(fileIndex);
    if (known) return known;
    for (const [oldest, handle] of this.#open) {
      if (this.#open.size < maxOpenFiles) break;
      this.#open.delete(oldest);
      await handle.close();
    }
    const handle = await openSource(file);
    this.#open.set(fileIndex, handle);
    return handle;
  }
}
