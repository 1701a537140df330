/**
 * The only place that knows which HTTP status an error code has. Errors become RFC 9457 problems: the message of a
 * `CodedError` is public, that of anything else is only logged, under the request id that the client is shown.
 */
import type { Logger } from "pino";
import { CodedError, type ErrorCode } from "../ops/errors.ts";
import type { Schemas } from "./handlers.ts";
import type { ErrorDialect } from "./routes/inferenceError.ts";
import { errorMember } from "./routes/inferenceError.ts";

interface Problem {
  readonly status: number;
  readonly title: string;
}

/** Every code; the compiler misses none. */
export const problems: Readonly<Record<ErrorCode, Problem>> = {
  invalid_request: { status: 400, title: "The request is not valid" },
  unauthorized: { status: 401, title: "An API key is needed" },
  forbidden: { status: 403, title: "This is not allowed" },
  not_found: { status: 404, title: "There is no such thing" },
  method_not_allowed: { status: 405, title: "This resource has no such method" },
  not_acceptable: { status: 406, title: "No accepted form can be given" },
  conflict: { status: 409, title: "The resource's state forbids this" },
  idempotency_conflict: { status: 409, title: "The first request with this key still runs" },
  source_changed: { status: 409, title: "A registered file has changed" },
  cancelled: { status: 409, title: "The work was cancelled" },
  precondition_failed: { status: 412, title: "The resource has changed" },
  payload_too_large: { status: 413, title: "The body is too large" },
  unsupported_media_type: { status: 415, title: "This content type is not taken" },
  range_not_satisfiable: { status: 416, title: "The file has no such range" },
  unprocessable: { status: 422, title: "What is asked is impossible" },
  idempotency_mismatch: { status: 422, title: "The key came with another body" },
  checkpoint_corrupt: { status: 422, title: "The checkpoint is corrupt" },
  checkpoint_unsupported: { status: 422, title: "The checkpoint is not supported" },
  checkpoint_missing_file: { status: 422, title: "The checkpoint lacks a file" },
  tokenizer_invalid: { status: 422, title: "The tokenizer is not valid" },
  dataset_invalid: { status: 422, title: "The data is not valid" },
  backend_unavailable: { status: 422, title: "The backend is not available" },
  model_too_large: { status: 422, title: "The model does not fit" },
  diverged: { status: 422, title: "The training diverged" },
  verification_failed: { status: 422, title: "The growth did not keep its promise" },
  too_many_requests: { status: 429, title: "Too many requests" },
  internal: { status: 500, title: "An internal error" },
  out_of_memory: { status: 500, title: "The compute process ran out of memory" },
  compute_crashed: { status: 500, title: "The compute process died" },
  hub_unavailable: { status: 502, title: "The hub does not answer" },
  unavailable: { status: 503, title: "The service cannot take this now" },
  store_unavailable: { status: 503, title: "The database does not answer" },
  data_dir_locked: { status: 503, title: "The data directory is in use" },
  timeout: { status: 504, title: "It took too long" },
  storage_full: { status: 507, title: "The disk is full" },
};

/** Seconds after which a client may try again, for the codes where that helps. */
const retryAfterSeconds: Partial<Record<ErrorCode, number>> = {
  too_many_requests: 1,
  idempotency_conflict: 1,
  unavailable: 2,
  store_unavailable: 2,
};

/** @returns the coded error that a caller may see for anything that was thrown. */
export function publicError(error: unknown): CodedError {
  if (error instanceof CodedError) return error;
  const message = "an internal error; the server's log has it under this request id";
  return new CodedError("internal", message, { cause: error });
}

/** @returns the problem document of an error, with what clients of the dialect read beside it. */
export function presentProblem(
  error: CodedError,
  requestId: string,
  dialect: ErrorDialect = "problem",
): Schemas["Problem"] {
  const { status, title } = problems[error.code];
  return {
    type: `/docs#${error.code}`,
    title,
    status,
    detail: error.message,
    code: error.code,
    request_id: requestId,
    ...(error.fields.length > 0 ? { errors: error.fields.map(({ pointer, detail }) => ({ pointer, detail })) } : {}),
    ...(Object.keys(error.details).length > 0 ? { details: error.details as Schemas["JsonObject"] } : {}),
    ...errorMember(error, dialect),
  };
}

/** Turns anything thrown into the answer for it, and logs what is the server's fault. */
export function problemResponse(
  thrown: unknown,
  requestId: string,
  log: Logger,
  dialect: ErrorDialect = "problem",
): Response {
  const error = publicError(thrown);
  const { status } = problems[error.code];
  const { code, cause } = error;
  if (status >= 500) log.error({ request_id: requestId, code, err: error, cause }, error.message);
  const headers = new Headers({ "Content-Type": "application/problem+json" });
  const told = error.details["retry_after_seconds"];
  const retryAfter = typeof told === "number" ? told : retryAfterSeconds[error.code];
  if (retryAfter !== undefined) headers.set("Retry-After", String(retryAfter));
  if (error.code === "unauthorized") headers.set("WWW-Authenticate", 'Bearer realm="cambium"');
  const allow = error.details["allow"];
  if (error.code === "method_not_allowed" && typeof allow === "string") headers.set("Allow", allow);
  return new Response(JSON.stringify(presentProblem(error, requestId, dialect)), { status, headers });
}
