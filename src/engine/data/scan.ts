/**
 * Finds the documents of a corpus file, reading it once from front to back in chunks. A `.txt` or `.md` file
 * is one document, or several where the separator `<|endoftext|>` stands between them (the line breaks around
 * a separator belong to nobody); a leading byte order mark is skipped. A `.jsonl` file has one document a
 * line, its field `text`; blank lines are skipped, any other line is an error that names file and line.
 * Empty documents are left out.
 */
import { createHash } from "node:crypto";
import type { Hash } from "node:crypto";
import { CodedError } from "../../ops/errors.ts";
import { openSource } from "../checkpoint/confine.ts";
import type { DocumentIndex } from "./documentIndex.ts";
import type { CorpusFile } from "./sources.ts";

export const documentSeparator = "<|endoftext|>";
/** A line of a .jsonl file, at most, bytes. */
export const maxLineBytes = 32 * 1024 * 1024;
/** Bytes read at once. */
const chunkBytes = 1024 * 1024;

const separator = Buffer.from(documentSeparator);
const newline = 0x0a;
const carriageReturn = 0x0d;

/** Called for every chunk read, with its size; throws to stop. */
export type OnBytes = (bytes: number) => void;

async function* readChunks(file: CorpusFile, onBytes: OnBytes): AsyncGenerator<Buffer> {
  const handle = await openSource(file);
  try {
    let offset = 0;
    while (offset < file.sizeBytes) {
      const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(chunkBytes), 0, chunkBytes, offset);
      if (bytesRead === 0) throw new CodedError("source_changed", `${file.name}: became shorter while it was read`);
      offset += bytesRead;
      onBytes(bytesRead);
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

function isLineBreak(byte: number | undefined): boolean {
  return byte === newline || byte === carriageReturn;
}

/** One document of a text file while it is read: its content without the line breaks at both ends. */
class TextDocument {
  #hash: Hash = createHash("sha256");
  /** Line breaks that are content only if something follows them. */
  #pending: Buffer[] = [];
  contentStart = -1;
  contentEnd = -1;

  append(bytes: Buffer, offset: number): void {
    let from = 0;
    if (this.contentStart < 0) {
      while (from < bytes.length && isLineBreak(bytes[from])) from++;
      if (from === bytes.length) return;
      this.contentStart = offset + from;
    }
    let to = bytes.length;
    while (to > from && isLineBreak(bytes[to - 1])) to--;
    if (to > from) {
      for (const part of this.#pending) this.#hash.update(part);
      this.#pending = [];
      this.#hash.update(bytes.subarray(from, to));
      this.contentEnd = offset + to;
    }
    if (to < bytes.length) this.#pending.push(bytes.subarray(Math.max(from, to)));
  }

  digest(): Buffer {
    return this.#hash.digest();
  }
}

function byteOrderMarkLength(file: CorpusFile, chunk: Buffer): number {
  if (chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf) return 3;
  const utf16 = (chunk[0] === 0xff && chunk[1] === 0xfe) || (chunk[0] === 0xfe && chunk[1] === 0xff);
  if (utf16) throw new CodedError("dataset_invalid", `${file.name}: the text is UTF-16, UTF-8 is wanted`);
  return 0;
}

async function scanText(file: CorpusFile, fileIndex: number, index: DocumentIndex, onBytes: OnBytes): Promise<void> {
  let document = new TextDocument();
  let bom = 0;
  let separators = 0;
  /** Bytes not yet looked at for a separator, and where they lie. */
  let rest: Buffer = Buffer.alloc(0);
  let offset = 0;
  let first = true;
  const close = (range: { start: number; end: number }): void => {
    if (document.contentStart >= 0) index.add({ file: fileIndex, ...range }, document.digest());
    document = new TextDocument();
  };
  for await (const chunk of readChunks(file, onBytes)) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    if (first) {
      first = false;
      bom = byteOrderMarkLength(file, rest);
      rest = rest.subarray(bom);
      offset = bom;
    }
    for (let at = rest.indexOf(separator); at >= 0; at = rest.indexOf(separator)) {
      document.append(rest.subarray(0, at), offset);
      close({ start: document.contentStart, end: document.contentEnd });
      separators += 1;
      rest = rest.subarray(at + separator.length);
      offset += at + separator.length;
    }
    // The last bytes may be the beginning of a separator.
    const sure = Math.max(0, rest.length - separator.length + 1);
    document.append(rest.subarray(0, sure), offset);
    rest = rest.subarray(sure);
    offset += sure;
  }
  document.append(rest, offset);
  // A file without separators is a document as it is, line breaks at its ends included.
  if (separators === 0) close({ start: bom, end: file.sizeBytes });
  else close({ start: document.contentStart, end: document.contentEnd });
}

/**
 * The text of one line of a .jsonl file.
 * @param where `file:line`, for the message
 * @throws dataset_invalid
 */
export function parseJsonlText(line: Uint8Array, where: string): string {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line));
  } catch (cause) {
    throw new CodedError("dataset_invalid", `${where}: not valid JSON in UTF-8`, { cause });
  }
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isObject) throw new CodedError("dataset_invalid", `${where}: a JSON object is wanted`);
  const text = Object.hasOwn(value as object, "text") ? (value as { text: unknown }).text : undefined;
  if (typeof text !== "string") {
    const got = text === undefined ? "missing" : `of type ${text === null ? "null" : typeof text}`;
    throw new CodedError("dataset_invalid", `${where}: field "text" is ${got}, a string is wanted`);
  }
  return text.toWellFormed();
}

/** @returns the identity of a document given as a string. */
export function hashText(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

async function scanJsonl(file: CorpusFile, fileIndex: number, index: DocumentIndex, onBytes: OnBytes): Promise<void> {
  let lineNumber = 0;
  let offset = 0;
  let parts: Buffer[] = [];
  let partBytes = 0;
  const closeLine = (): void => {
    lineNumber += 1;
    let line = parts.length === 1 ? (parts[0] ?? Buffer.alloc(0)) : Buffer.concat(parts);
    const start = offset;
    offset += partBytes + 1;
    parts = [];
    partBytes = 0;
    let skipped = 0;
    if (lineNumber === 1) {
      skipped = byteOrderMarkLength(file, line);
      line = line.subarray(skipped);
    }
    if (line.every((byte) => byte === 0x20 || byte === 0x09 || isLineBreak(byte))) return;
    const text = parseJsonlText(line, `${file.name}:${lineNumber}`);
    if (text === "") return;
    index.add({ file: fileIndex, start: start + skipped, end: start + skipped + line.length }, hashText(text));
  };
  for await (const chunk of readChunks(file, onBytes)) {
    let rest = chunk;
    for (let at = rest.indexOf(newline); at >= 0; at = rest.indexOf(newline)) {
      parts.push(rest.subarray(0, at));
      partBytes += at;
      closeLine();
      rest = rest.subarray(at + 1);
    }
    if (rest.length > 0) parts.push(rest);
    partBytes += rest.length;
    if (partBytes > maxLineBytes) {
      const where = `${file.name}:${lineNumber + 1}`;
      throw new CodedError("dataset_invalid", `${where}: a line of more than ${maxLineBytes} bytes`);
    }
  }
  if (partBytes > 0) closeLine();
}

/**
 * Adds the documents of one file to the index.
 * @throws dataset_invalid, source_changed
 */
export async function scanFile(
  file: CorpusFile,
  fileIndex: number,
  index: DocumentIndex,
  onBytes: OnBytes,
): Promise<void> {
  await (file.kind === "jsonl" ? scanJsonl : scanText)(file, fileIndex, index, onBytes);
}
