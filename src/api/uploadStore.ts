/**
 * Resumable uploads by the tus protocol (https://tus.io), as files under DATA_DIR/uploads: the bytes under the
 * upload's id, beside them a JSON file with length and metadata. The protocol is @tus/server's; what may be
 * uploaded, under which names, how much, and for how long is decided here. What tus answers in plain text becomes
 * an error of ours.
 */
import { randomBytes } from "node:crypto";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";
import { CodedError, type ErrorCode } from "../ops/errors.ts";

/** Uploads are kept for so long, finished or not (engine/jobs/sweeper.ts removes them), ms. */
const lifetimeMs = 24 * 3_600_000;
/** Uploads kept at once. */
const maxUploads = 10_000;
const idPattern = /^upl_[0-9a-f]{32}$/;

/** Files of a model directory and of a dataset; a plain name, never a path. */
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.(safetensors|json|jsonl|txt|md|model|jinja)$/;

export interface UploadState {
  readonly id: string;
  readonly filename: string;
  readonly sizeBytes: number;
  readonly offsetBytes: number;
  readonly expiresAt: Date;
}

export interface UploadStore {
  /** Begins an upload. @throws invalid_request, payload_too_large, unavailable */
  create(request: Request): Promise<Response>;
  /** Any later step of the protocol. @throws not_found, conflict, payload_too_large, unsupported_media_type */
  handle(request: Request): Promise<Response>;
  /** @throws not_found */
  get(id: string): Promise<UploadState>;
}

/** @param directory an existing folder */
export function createUploadStore(directory: string, maxBytes: number): UploadStore {
  // made when first needed: FileStore makes its folder in the background, and fails there
  const files = once(() => new FileStore({ directory, expirationPeriodInMilliseconds: lifetimeMs }));
  const tus = once(() => createTusServer(files(), directory, maxBytes));
  return {
    async create(request) {
      checkName(filenameOf(request.headers.get("upload-metadata") ?? ""));
      if ((await readdir(directory)).length / 2 >= maxUploads) {
        throw new CodedError("unavailable", `${maxUploads} uploads are kept, as many as can be; delete some`);
      }
      return asAnswer(await tus().handleWeb(request));
    },
    async handle(request) {
      const type = request.headers.get("content-type");
      if (request.method === "PATCH" && type !== "application/offset+octet-stream") {
        const got = JSON.stringify(type?.slice(0, 100) ?? "");
        const message = `Content-Type: got ${got}, want "application/offset+octet-stream"`;
        throw new CodedError("unsupported_media_type", message);
      }
      return asAnswer(await tus().handleWeb(request));
    },
    async get(id) {
      const upload = idPattern.test(id)
        ? await files()
            .getUpload(id)
            .catch(() => null)
        : null;
      if (!upload) throw new CodedError("not_found", `no upload ${JSON.stringify(id.slice(0, 100))}`);
      const created = new Date(upload.creation_date ?? 0).getTime();
      return {
        id,
        filename: upload.metadata?.["filename"] ?? "",
        sizeBytes: upload.size ?? 0,
        offsetBytes: upload.offset,
        expiresAt: new Date(created + lifetimeMs),
      };
    },
  };
}

function createTusServer(datastore: FileStore, directory: string, maxSize: number): Server {
  return new Server({
    ...{ path: "/v1/uploads", datastore, maxSize },
    relativeLocation: true,
    respectForwardedHeaders: false,
    allowedOrigins: () => false,
    namingFunction: () => `upl_${randomBytes(16).toString("hex")}`,
    // an acknowledged file must survive a crash of the machine
    onUploadFinish: async (_request, upload) => {
      await flush(join(directory, upload.id));
      return {};
    },
  });
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

/** @returns the decoded `filename` of an Upload-Metadata header. @throws invalid_request */
function filenameOf(metadata: string): string {
  const pairs = metadata.split(",").map((pair) => pair.trim().split(" "));
  const value = pairs.find(([key]) => key === "filename")?.[1];
  if (value === undefined) throw wrongName("has no filename");
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(value)) throw wrongName("filename is not base64");
  return Buffer.from(value, "base64").toString("utf8");
}

function checkName(name: string): void {
  if (namePattern.test(name)) return;
  const shown = JSON.stringify(name.slice(0, 100));
  throw wrongName(`filename is ${shown}, want a plain name such as model.safetensors, config.json or corpus.txt`);
}

function wrongName(detail: string): CodedError {
  const fields = [{ pointer: "/Upload-Metadata", detail: `header parameter: ${detail}` }];
  return new CodedError("invalid_request", `Upload-Metadata: ${detail}`, { fields });
}

const codes: Readonly<Record<number, ErrorCode>> = {
  403: "forbidden",
  404: "not_found",
  409: "conflict",
  410: "not_found",
  412: "precondition_failed",
  413: "payload_too_large",
  415: "unsupported_media_type",
};

async function asAnswer(response: Response): Promise<Response> {
  if (response.status < 400) return response;
  const text = (await response.text()).trim();
  if (response.status >= 500) throw new Error(`tus answered ${response.status}: ${text}`);
  throw new CodedError(codes[response.status] ?? "invalid_request", `upload: ${text.slice(0, 500)}`);
}

async function flush(path: string): Promise<void> {
  const file = await open(path, "r+");
  await file.sync().finally(() => file.close());
}
