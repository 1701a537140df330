/**
 * Blobs by digest, for workers that do not share the blob directory: they read what they compute on, wherever it
 * lies, and give back what they made. A blob is sent in pieces, any of which may be repeated; it is there when the
 * whole has the SHA-256 that its address says, and until then nobody sees it.
 */
import { stat } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { BlobLocation } from "../../ops/manifest.ts";
import { openBlob, readChunkBytes } from "../../engine/checkpoint/blobReader.ts";
import { blobPath, keepYoung } from "../../engine/checkpoint/blobs.ts";
import { PartialBlob, partialBytes } from "../../engine/checkpoint/partialBlob.ts";
import { streamOf } from "../../engine/checkpoint/view.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import { parseContentRange, parseRange, type ByteRange } from "../range.ts";

/** Bytes of one piece, at most. */
const maxPieceBytes = 64 << 20;
/** A sender silent for so long is given up, ms. */
const silenceMs = 30_000;

export function createBlobHandlers({ settings, store }: RouteDeps): HandlersOf<"getBlob" | "putBlob"> {
  const { blobDir, maxUploadBytes } = settings;
  const writing = new Set<string>();
  return {
    async getBlob({ path: { digest }, header, request }) {
      const located = (await store.blobs.locate([digest]))[digest] ?? (await ownFile(blobDir, digest));
      if (!located) throw new CodedError("not_found", `no blob ${digest}`);
      const range = request.method === "GET" ? parseRange(header.Range, located.sizeBytes) : null;
      const { offset, length } = range ?? { offset: 0, length: located.sizeBytes };
      const headers: Record<string, string> = {
        ...{ ETag: `"${digest}"`, "Accept-Ranges": "bytes", "Cache-Control": "private, immutable" },
        ...{ "Content-Type": "application/octet-stream", "Content-Length": String(length) },
      };
      if (range) headers["Content-Range"] = `bytes ${offset}-${offset + length - 1}/${located.sizeBytes}`;
      if (request.method === "HEAD") return new Response(null, { headers });
      const stream = streamOf(await readRange(located, { offset, length }));
      return new Response(stream, { status: range ? 206 : 200, headers });
    },
    async putBlob({ path: { digest }, header, request, signal }) {
      const { range, sizeBytes } = parseContentRange(header["Content-Range"]);
      if (sizeBytes > maxUploadBytes || (range?.length ?? 0) > maxPieceBytes) {
        const most = `a blob may have ${maxUploadBytes} bytes, a piece of it ${maxPieceBytes}`;
        throw new CodedError("payload_too_large", `Content-Range: ${most}`);
      }
      if (writing.has(digest)) throw new CodedError("conflict", `blob ${digest} is being sent by somebody else`);
      writing.add(digest);
      try {
        const blob = { digest, sizeBytes };
        return { status: 200, body: await take(blobDir, blob, range, request, signal) };
      } finally {
        writing.delete(digest);
      }
    },
  };
}

/** A blob of the directory that the database does not know (yet). */
async function ownFile(blobDir: string, digest: string): Promise<BlobLocation | null> {
  const path = blobPath(blobDir, digest);
  const file = await stat(path).catch(() => null);
  return file?.isFile() ? { path, sizeBytes: file.size, mtimeMs: null } : null;
}

/** Opened before the answer begins, so that a file that is gone or changed is an error and no cut answer. */
async function readRange(located: BlobLocation, { offset, length }: ByteRange) {
  const reader = await openBlob(located);
  return (async function* () {
    try {
      for (let done = 0; done < length;) {
        const chunk = await reader.read(offset + done, Math.min(readChunkBytes, length - done));
        done += chunk.length;
        yield chunk;
      }
    } finally {
      await reader.close();
    }
  })();
}

/** @param range where the piece belongs; null asks only how far the blob is */
async function take(
  blobDir: string,
  blob: NewBlob,
  range: ByteRange | null,
  request: Request,
  signal: AbortSignal,
): Promise<Schemas["BlobState"]> {
  const { digest, sizeBytes } = blob;
  const state = (complete: boolean, offsetBytes: number) => {
    return { digest, size_bytes: sizeBytes, offset_bytes: offsetBytes, complete };
  };
  const there = await ownFile(blobDir, digest);
  if (there !== null) {
    if (there.sizeBytes !== sizeBytes) {
      throw new CodedError("unprocessable", `blob ${digest} has ${there.sizeBytes} bytes, not ${sizeBytes}`);
    }
    // whoever asks is about to refer to it: the sweep leaves it alone until then
    if (await keepYoung(there.path)) return state(true, sizeBytes);
  }
  if (range === null && sizeBytes > 0) return state(false, Math.min(await partialBytes(blobDir, digest), sizeBytes));
  const partial = await PartialBlob.open(blobDir, blob);
  if (partial.sizeBytes > sizeBytes) {
    await partial.discard();
    throw new CodedError("conflict", `more than ${sizeBytes} bytes of blob ${digest} were there; begin again`);
  }
  try {
    if (range !== null) await receive(partial, range, request, signal);
  } catch (error) {
    await partial.close();
    throw error;
  }
  if (partial.sizeBytes < sizeBytes) {
    await partial.close();
    return state(false, partial.sizeBytes);
  }
  await partial.finish(signal).catch((error: unknown) => {
    const isWrong = error instanceof CodedError && error.code === "checkpoint_corrupt";
    throw isWrong ? new CodedError("unprocessable", error.message) : error;
  });
  return state(true, sizeBytes);
}

/** Writes the body as it comes. @throws invalid_request, payload_too_large when it is not as long as its range */
async function receive(partial: PartialBlob, range: ByteRange, request: Request, signal: AbortSignal): Promise<void> {
  const reader = request.body?.getReader();
  let done = 0;
  try {
    for (;;) {
      signal.throwIfAborted();
      const { promise: silence, reject } = Promise.withResolvers<never>();
      const timer = setTimeout(() => {
        reject(new CodedError("invalid_request", `no byte of the body came for ${silenceMs} ms`));
      }, silenceMs);
      const chunk = await Promise.race([reader?.read(), silence]).finally(() => clearTimeout(timer));
      if (chunk === undefined || chunk.done) break;
      if (done + chunk.value.length > range.length) {
        throw new CodedError("payload_too_large", `the body has more than the ${range.length} bytes of its range`);
      }
      await partial.write(chunk.value, range.offset + done);
      done += chunk.value.length;
    }
  } finally {
    await reader?.cancel().catch(() => undefined);
  }
  if (done < range.length) {
    throw new CodedError("invalid_request", `the body has ${done} bytes; its range has ${range.length}`);
  }
}
