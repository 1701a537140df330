/**
 * Blobs over HTTP, from and to the API of the service (`/v1/blobs`): how a worker without the shared blob directory
 * gets what it computes on and gives back what it made. What comes is checked by SHA-256 before it is visible; what
 * goes is checked by the server. Either way a transfer goes on where it was cut.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CodedError, errorCodes, type ErrorCode } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import { openBlob } from "./blobReader.ts";
import { blobLocation } from "./blobs.ts";
import { HubClient } from "./hubClient.ts";
import { PartialBlob } from "./partialBlob.ts";

export interface BlobClientOptions {
  /** Of the API: `http://host:8080`. */
  readonly endpoint: string;
  /** An API key with the scope `worker`; null where the API asks for none. */
  readonly key: string | null;
  /** First pause before a request is repeated, ms; doubles each time. */
  readonly backoffMs?: number;
}

export interface BlobClient {
  /** Fetches a blob into the directory. @throws not_found, forbidden, unavailable, checkpoint_corrupt, storage_full */
  fetch(blobDir: string, blob: NewBlob, signal?: AbortSignal): Promise<void>;
  /** Sends a blob of the directory, unless it is there. @throws forbidden, unavailable, checkpoint_corrupt */
  send(blobDir: string, blob: NewBlob, signal?: AbortSignal): Promise<void>;
  /** @throws forbidden where the API refuses the key, unavailable where it does not answer */
  check(): Promise<void>;
  /** Whether the server has the blob as a file of its own; if so it stays for a while. @throws as `send` */
  has(blob: NewBlob, signal?: AbortSignal): Promise<boolean>;
}

/** Bytes of one request. */
const pieceBytes = 8 << 20;
const requestTimeoutMs = 120_000;
/** Failures in a row without a byte of progress, at most. */
const maxFailures = 5;
const maxPauseMs = 30_000;
const defaultBackoffMs = 500;
const keyHint = "API_KEY must be a key with the scope worker";

/** How far the server has a blob. */
interface Stored {
  readonly complete: boolean;
  readonly offsetBytes: number;
}

/** @throws invalid_request for an endpoint that is not a plain http(s) address */
export function createBlobClient(options: BlobClientOptions): BlobClient {
  const { endpoint, key, backoffMs = defaultBackoffMs } = options;
  const words = { unavailable: "unavailable", refused: keyHint } as const;
  const source = (signal?: AbortSignal) => new HubClient({ endpoint, token: key, backoffMs, signal, ...words });
  source();
  const statusOf = (blob: NewBlob, signal?: AbortSignal): Promise<Stored> =>
    patiently(
      options,
      signal,
      () => 0,
      () => put(options, blob, "*", null, signal),
    );
  const client: BlobClient = {
    async fetch(blobDir, blob, signal) {
      const partial = await openPartial(blobDir, blob);
      const resumed = partial.sizeBytes > 0;
      try {
        await receive(source(signal), partial, blob);
      } catch (error) {
        await partial.close();
        throw error;
      }
      try {
        await partial.finish(signal);
      } catch (error) {
        // what an earlier process left may have been wrong: once more, from the beginning
        if (!resumed || !(error instanceof CodedError) || error.code !== "checkpoint_corrupt") throw error;
        await client.fetch(blobDir, blob, signal);
      }
    },
    async has(blob, signal) {
      return (await statusOf(blob, signal)).complete;
    },
    async check() {
      await statusOf({ digest: "0".repeat(64), sizeBytes: 1 });
    },
    async send(blobDir, blob, signal) {
      let at = await statusOf(blob, signal);
      if (at.complete) return;
      const reader = await openBlob(blobLocation(blobDir, blob));
      try {
        while (!at.complete) {
          const next = async (): Promise<Stored> => {
            const start = at.offsetBytes;
            const piece = await reader.read(start, Math.min(pieceBytes, blob.sizeBytes - start));
            return put(options, blob, `${start}-${start + piece.length - 1}`, piece, signal);
          };
          at = await patiently(options, signal, () => at.offsetBytes, next);
        }
      } finally {
        await reader.close();
      }
    },
  };
  return client;
}

/** Sends a piece. @throws forbidden, conflict, unavailable, unprocessable, and what `fetch` throws */
async function put(
  { endpoint, key }: BlobClientOptions,
  blob: NewBlob,
  range: string,
  piece: Uint8Array | null,
  signal: AbortSignal | undefined,
): Promise<Stored> {
  const headers: Record<string, string> = { "Content-Type": "application/octet-stream" };
  headers["Content-Range"] = `bytes ${range}/${blob.sizeBytes}`;
  if (key !== null) headers["Authorization"] = `Bearer ${key}`;
  const body = (piece ?? new Uint8Array()) as Uint8Array<ArrayBuffer>;
  const late = AbortSignal.timeout(requestTimeoutMs);
  const timeout = signal === undefined ? late : AbortSignal.any([signal, late]);
  const url = `${endpoint.replace(/\/+$/, "")}/v1/blobs/${blob.digest}`;
  const response = await fetch(url, { method: "PUT", headers, body, redirect: "error", signal: timeout });
  const answer = (await response.json()) as { complete?: unknown; offset_bytes?: unknown };
  if (!response.ok) throw refusal(response.status, answer);
  return { complete: answer.complete === true, offsetBytes: Number(answer.offset_bytes) };
}

/** Repeats what failed for a passing cause, while there is hope: `progress` grows now and then. */
async function patiently<T>(
  { endpoint, backoffMs = defaultBackoffMs }: BlobClientOptions,
  signal: AbortSignal | undefined,
  progress: () => number,
  work: () => Promise<T>,
): Promise<T> {
  let failures = 0;
  for (let reached = -1; ;) {
    try {
      return await work();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof CodedError && !passing.has(error.code)) throw error;
      failures = progress() > reached ? 1 : failures + 1;
      reached = progress();
      const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : "";
      const why = error instanceof Error ? error.message + cause : String(error);
      const message = `the API at ${new URL(endpoint).host} does not take blobs: ${why}`;
      if (failures >= maxFailures) throw new CodedError("unavailable", message, { cause: error });
      await sleep(Math.min(maxPauseMs, backoffMs * 2 ** (failures - 1)), undefined, { signal });
    }
  }
}

/** More than there should be cannot be the beginning of it. */
async function openPartial(blobDir: string, blob: NewBlob): Promise<PartialBlob> {
  const partial = await PartialBlob.open(blobDir, blob);
  if (partial.sizeBytes <= blob.sizeBytes) return partial;
  await partial.discard();
  return PartialBlob.open(blobDir, blob);
}

async function receive(source: HubClient, partial: PartialBlob, blob: NewBlob): Promise<void> {
  if (partial.sizeBytes === blob.sizeBytes) return;
  const sink = { at: () => partial.sizeBytes, write: (bytes: Uint8Array) => partial.write(bytes, partial.sizeBytes) };
  await source.download(`v1/blobs/${blob.digest}`, sink, blob.sizeBytes);
}

/** Answers that another try may change; `conflict`: another worker sends the same bytes just now. */
const passing: ReadonlySet<ErrorCode> = new Set(["unavailable", "store_unavailable", "conflict", "too_many_requests"]);

function refusal(status: number, problem: object): CodedError {
  const { code, detail } = problem as { code?: unknown; detail?: unknown };
  const text = typeof detail === "string" ? detail : `status ${status}`;
  if (status === 401 || status === 403) {
    return new CodedError("forbidden", `the API refuses this worker: ${text}; ${keyHint}`);
  }
  const known = errorCodes.find((one) => one === code);
  return new CodedError(known ?? (status >= 500 ? "unavailable" : "internal"), `the API answered: ${text}`);
}
