/**
 * The Hugging Face layout of a checkpoint for download: whole files or one range, streamed as fast as the client
 * takes them. A file is opened only when bytes are really to be sent, so HEAD and 304 read nothing.
 */
import { CodedError } from "../../ops/errors.ts";
import { listViewFiles, openViewFile, type ViewFile } from "../../engine/checkpoint/view.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";
import { noneMatch } from "../middleware/etag.ts";
import { presentAll } from "../present.ts";
import { parseRange } from "../range.ts";

export function createCheckpointFileHandlers(deps: RouteDeps): HandlersOf<"listCheckpointFiles" | "getCheckpointFile"> {
  const { checkpoints } = deps.store;
  return {
    async listCheckpointFiles({ path }) {
      const { manifest } = await checkpoints.get(path.id);
      const files = listViewFiles(manifest).map((file) => ({
        name: file.name,
        size_bytes: file.sizeBytes,
        etag: `"${file.etag}"`,
      }));
      return { status: 200, body: presentAll(files) };
    },
    async getCheckpointFile({ path, header, request }) {
      const row = await checkpoints.get(path.id);
      const file = findFile(listViewFiles(row.manifest), path.name, row.id);
      const etag = `"${file.etag}"`;
      const headers: Record<string, string> = {
        ETag: etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": `attachment; filename="${file.name.replace(/[^\w.-]/g, "_")}"`,
      };
      if (noneMatch(header["If-None-Match"], etag)) return new Response(null, { status: 304, headers });
      const wanted = header["If-Range"] === undefined || header["If-Range"].trim() === etag;
      const range = wanted && request.method === "GET" ? parseRange(header.Range, file.sizeBytes) : null;
      const { offset, length } = range ?? { offset: 0, length: file.sizeBytes };
      headers["Content-Type"] = file.contentType;
      headers["Content-Length"] = String(length);
      if (range) headers["Content-Range"] = `bytes ${offset}-${offset + length - 1}/${file.sizeBytes}`;
      if (request.method === "HEAD") return new Response(null, { status: 200, headers });
      const stream = await openViewFile(await checkpoints.resolve(row), file.name, { offset, length });
      return new Response(stream, { status: range ? 206 : 200, headers });
    },
  };
}

function findFile(files: readonly ViewFile[], name: string, checkpoint: string): ViewFile {
  const file = files.find((candidate) => candidate.name === name);
  if (file) return file;
  const there = files.map((one) => one.name).join(", ");
  const message = `${checkpoint} has no file ${JSON.stringify(name)}; it has ${there}`;
  throw new CodedError("not_found", message.slice(0, 2000));
}
