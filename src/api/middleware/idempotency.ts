/**
 * Idempotency-Key: the first request with a key does the work and its answer is kept; a repeat with the same body
 * gets that answer. What failed has done nothing, so its key is free again, and so is that of a stream or of an
 * answer too large to keep. A key belongs to one principal and one path.
 */
import { CodedError } from "../../ops/errors.ts";
import type { IdempotencyStore } from "../../engine/store/types.ts";

/** Largest answer that is kept. */
const maxKeptBytes = 4 * 2 ** 20;

/** Headers that are part of the stored answer. */
const keptHeaders = ["content-type", "location", "preference-applied", "etag", "tus-resumable", "upload-offset"];

export interface IdempotentRequest {
  readonly key: string;
  /** Principal, method and path. */
  readonly scope: string;
  /** SHA-256 of what was sent. */
  readonly bodyDigest: string;
}

/** Runs `work` once per key. @throws idempotency_conflict, idempotency_mismatch */
export async function onlyOnce(
  store: IdempotencyStore,
  { key, scope, bodyDigest }: IdempotentRequest,
  work: () => Promise<Response>,
): Promise<Response> {
  const stored = await store.begin(key, scope, bodyDigest);
  if (stored) {
    return new Response(stored.body === "" ? null : stored.body, {
      status: stored.status,
      headers: { ...stored.headers, "Idempotency-Replayed": "true" },
    });
  }
  let kept = false;
  try {
    const response = await work();
    const body = await keepableBody(response);
    if (body !== null) {
      await store.finish(key, scope, { status: response.status, headers: pickHeaders(response.headers), body });
      kept = true;
    }
    return response;
  } finally {
    if (!kept) await store.release(key, scope);
  }
}

async function keepableBody(response: Response): Promise<string | null> {
  if (response.status >= 400) return null;
  if (response.headers.get("content-type")?.startsWith("text/event-stream")) return null;
  const body = response.body === null ? "" : await response.clone().text();
  return body.length <= maxKeptBytes ? body : null;
}

function pickHeaders(headers: Headers): Record<string, string> {
  const present = keptHeaders.map((name) => [name, headers.get(name)] as const);
  return Object.fromEntries(present.filter((entry): entry is readonly [string, string] => entry[1] !== null));
}

/** @returns the checked key of a request. @throws invalid_request */
export function idempotencyKeyOf(request: Request): string | null {
  const key = request.headers.get("idempotency-key");
  if (key === null) return null;
  if (/^[\x21-\x7e]{1,255}$/.test(key)) return key;
  throw new CodedError("invalid_request", "Idempotency-Key: want 1 to 255 visible ASCII characters");
}
