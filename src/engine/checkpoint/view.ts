/**
 * A checkpoint as downloads: the files of its Hugging Face layout, streamed from where their bytes lie, whole
 * or in part. A stream reads one chunk further than its consumer asks, holds two, and closes its file when it ends,
 * fails or is cancelled. HTTP's ranges and headers are the API's business.
 */
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { decodeToF32, encodeFromF32 } from "../../ops/dtype.ts";
import { CodedError } from "../../ops/errors.ts";
import { maskedValues } from "../../ops/growth/index.ts";
import type { BlobLocation, CheckpointManifest, ResolvedCheckpoint } from "../../ops/manifest.ts";
import { openBlob, type BlobReader } from "./blobReader.ts";
import { asStorageError } from "./blobs.ts";
import { contentTypeOf } from "./files.ts";
import { defaultMaxShardBytes, layoutFiles, type LayoutFile, type MaskedSegment, type Segment } from "./layout.ts";
import { quoted } from "./strictJson.ts";
import { locate } from "./tensorReader.ts";

export interface ViewFile {
  readonly name: string;
  readonly sizeBytes: number;
  /**
   * Lowercase hex, without quotes: the file's SHA-256; of weights assembled here, the SHA-256 of their header
   * and tensor digests. A strong validator in both cases.
   */
  readonly etag: string;
  readonly contentType: string;
}

/** `length` bytes from `offset` on. */
export interface ViewRange {
  readonly offset: number;
  readonly length: number;
}

export interface ViewOptions {
  /** Must be the same for listing and opening. */
  readonly maxShardBytes?: number;
}

/** Bytes of one chunk of a stream, at most. */
const chunkBytes = 512 * 1024;

/** @returns what a download offers; reads nothing. */
export function listViewFiles(manifest: CheckpointManifest, options: ViewOptions = {}): readonly ViewFile[] {
  return layoutFiles(manifest, options.maxShardBytes).map(({ name, sizeBytes, etag }) => {
    return { name, sizeBytes, etag, contentType: contentTypeOf(name) };
  });
}

/**
 * Opens a file of the view. Every blob it needs is looked at before the stream is returned, so that a file
 * registered by reference which is gone or changed is an error and not a broken download.
 * @param range the whole file when absent
 * @throws not_found, range_not_satisfiable, source_changed, checkpoint_corrupt
 */
export async function openViewFile(
  resolved: ResolvedCheckpoint,
  name: string,
  range?: ViewRange,
  options: ViewOptions = {},
): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> {
  const files = layoutFiles(resolved.manifest, options.maxShardBytes ?? defaultMaxShardBytes);
  const file = files.find((candidate) => candidate.name === name);
  if (file === undefined) throw new CodedError("not_found", `the checkpoint has no file ${quoted(name)}`);
  const segments = cut(file, range ?? { offset: 0, length: file.sizeBytes });
  const needed = new Set(segments.map((segment) => (segment.kind === "bytes" ? null : segment.blob)));
  for (const blob of needed) {
    if (blob !== null) await (await openBlob(locate(resolved.blobs, blob))).close();
  }
  return streamOf(readSegments(segments, resolved.blobs));
}

/** The parts of the file's segments that lie within the range. */
function cut(file: LayoutFile, range: ViewRange): Segment[] {
  const { offset, length } = range;
  const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (!valid || offset + length > file.sizeBytes) {
    throw new CodedError("range_not_satisfiable", `${file.name} has ${file.sizeBytes} bytes`);
  }
  const parts: Segment[] = [];
  let start = 0;
  for (const segment of file.segments) {
    const from = Math.max(0, offset - start);
    const to = Math.min(segment.sizeBytes, offset + length - start);
    start += segment.sizeBytes;
    if (to <= from) continue;
    if (segment.kind === "bytes") {
      parts.push({ kind: "bytes", bytes: segment.bytes.subarray(from, to), sizeBytes: to - from });
    } else if (segment.kind === "masked") {
      parts.push({ ...segment, from: segment.from + from, sizeBytes: to - from });
    } else {
      parts.push({ ...segment, offset: segment.offset + from, sizeBytes: to - from });
    }
  }
  return parts;
}

/** One chunk ahead of the consumer: the next is read while it takes this one. */
async function* readSegments(
  segments: readonly Segment[],
  blobs: Readonly<Record<string, BlobLocation>>,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let blob: string | null = null;
  let reader: BlobReader | null = null;
  let ahead: Promise<Uint8Array<ArrayBuffer>> | null = null;
  try {
    for (const segment of segments) {
      if (segment.kind === "bytes") {
        if (ahead !== null) yield await ahead;
        ahead = Promise.resolve(new Uint8Array(segment.bytes));
        continue;
      }
      if (reader === null || blob !== segment.blob) {
        if (ahead !== null) yield await ahead;
        ahead = null;
        await reader?.close();
        reader = null;
        reader = await openBlob(locate(blobs, segment.blob));
        blob = segment.blob;
      }
      for (let done = 0; done < segment.sizeBytes;) {
        const length = Math.min(chunkBytes, segment.sizeBytes - done);
        const before: Promise<Uint8Array<ArrayBuffer>> | null = ahead;
        ahead = readChunk(reader, segment, done, length);
        ahead.catch(() => undefined); // heard when its turn comes
        done += length;
        if (before !== null) yield await before;
      }
    }
    if (ahead !== null) yield await ahead;
  } finally {
    await Promise.allSettled([ahead]);
    await reader?.close();
  }
}

function readChunk(
  reader: BlobReader,
  segment: Exclude<Segment, { kind: "bytes" }>,
  done: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  if (segment.kind === "masked") return readMasked(reader, segment, segment.from + done, length);
  return reader.read(segment.offset + done, length);
}

/** Bytes `start` to `start + length` of a masked tensor: whole values are read, multiplied and cut to that. */
async function readMasked(
  reader: BlobReader,
  { offset, shape, mask }: MaskedSegment,
  start: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const first = Math.floor(start / 4);
  const end = Math.ceil((start + length) / 4);
  const values = decodeToF32(await reader.read(offset + first * 4, (end - first) * 4), "F32");
  const bytes = encodeFromF32(maskedValues(values, shape, mask, first), "F32");
  return new Uint8Array(bytes).subarray(start - first * 4, start - first * 4 + length);
}

/** Nothing is read before the first pull; the generator's `finally` runs on end, error and cancel alike. */
export function streamOf(chunks: AsyncGenerator<Uint8Array<ArrayBuffer>>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (done === true) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await chunks.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}

/**
 * Writes the view to a directory, for an engine that wants files.
 * @throws as `openViewFile`; storage_full; cancelled by `signal`
 */
export async function writeViewFiles(
  resolved: ResolvedCheckpoint,
  directory: string,
  options: ViewOptions & { readonly signal?: AbortSignal } = {},
): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const { name } of layoutFiles(resolved.manifest, options.maxShardBytes)) {
    const stream = await openViewFile(resolved, name, undefined, options);
    const target = createWriteStream(join(directory, name), { flags: "wx" });
    try {
      await pipeline(Readable.fromWeb(stream as never), target, options.signal ? { signal: options.signal } : {});
    } catch (error) {
      throw asStorageError(error);
    }
  }
}
