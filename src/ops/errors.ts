/**
 * The one list of error codes. Every failure that a caller may see is a `CodedError`: its message is
 * public and names the thing, the value got and the value wanted; its cause is private and only logged.
 * What HTTP status a code becomes is known in `api/errors.ts` alone.
 */

/** Where in a JSON request body a value was wrong, as an RFC 6901 pointer. */
export interface FieldError {
  pointer: string;
  detail: string;
}

export const errorCodes = [
  // the request
  "invalid_request", // malformed or undeclared input; carries `fields`
  "unauthorized", // no key, or an unknown one
  "forbidden", // a key without the needed scope, or a path outside the import roots
  "not_found",
  "method_not_allowed",
  "not_acceptable",
  "conflict", // the resource is in a state that forbids this
  "idempotency_conflict", // same Idempotency-Key is still running
  "idempotency_mismatch", // same Idempotency-Key, other body
  "precondition_failed", // If-Match
  "payload_too_large",
  "unsupported_media_type",
  "range_not_satisfiable",
  "too_many_requests",
  "unprocessable", // well-formed, but impossible (a growth target smaller than its source, ...)
  // outside data
  "checkpoint_corrupt", // a weights file or index lies
  "checkpoint_unsupported", // honest, but not something this service computes with
  "checkpoint_missing_file",
  "source_changed", // a file registered by reference is no longer what was registered
  "tokenizer_invalid",
  "dataset_invalid",
  "hub_unavailable",
  // compute
  "backend_unavailable",
  "model_too_large", // does not fit the backend's memory
  "out_of_memory",
  "compute_crashed", // the compute process died
  "diverged", // loss or gradient is not finite
  "verification_failed", // a growth declared preserving changed the function
  "timeout",
  "cancelled",
  // the service
  "data_dir_locked",
  "store_unavailable",
  "storage_full",
  "unavailable", // shutting down, or a queue is full
  "internal",
] as const;

export type ErrorCode = (typeof errorCodes)[number];

export interface CodedErrorOptions {
  /** Pointers into the request body, for the codes that speak of a request. */
  fields?: readonly FieldError[];
  /** Machine-readable facts about the failure; public. */
  details?: Readonly<Record<string, unknown>>;
  /** The private cause; logged, never sent. */
  cause?: unknown;
}

/** The only error class whose message a user may see. */
export class CodedError extends Error {
  readonly code: ErrorCode;
  readonly fields: readonly FieldError[];
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: CodedErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "CodedError";
    this.code = code;
    this.fields = options.fields ?? [];
    this.details = options.details ?? {};
  }
}

/** The JSON form in which an error crosses a process boundary or is stored with a job. */
export interface ErrorRecord {
  code: ErrorCode;
  message: string;
  fields?: readonly FieldError[];
  details?: Readonly<Record<string, unknown>>;
}

/** @returns the storable form of any thrown value; an unknown one becomes `internal` without its text. */
export function toErrorRecord(error: unknown): ErrorRecord {
  if (!(error instanceof CodedError)) return { code: "internal", message: "an internal error; see the log" };
  const record: ErrorRecord = { code: error.code, message: error.message };
  if (error.fields.length > 0) record.fields = error.fields;
  if (Object.keys(error.details).length > 0) record.details = error.details;
  return record;
}

/** @returns the error that `toErrorRecord` recorded. */
export function fromErrorRecord(record: ErrorRecord): CodedError {
  return new CodedError(record.code, record.message, {
    ...(record.fields ? { fields: record.fields } : {}),
    ...(record.details ? { details: record.details } : {}),
  });
}

/** Causes below a failure that are told, at most. */
const maxCausesTold = 5;

/** @returns what the person at the terminal is told when a process cannot start: code, message and the causes. */
export function describeFailure(error: unknown): string {
  if (!(error instanceof CodedError)) return error instanceof Error ? (error.stack ?? error.message) : String(error);
  const lines = [`${error.code}: ${error.message}`];
  for (let cause = error.cause; cause !== undefined && lines.length <= maxCausesTold;) {
    lines.push(`  because: ${cause instanceof Error ? cause.message : String(cause)}`);
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  return lines.join("\n");
}

/** Fails loudly on a programmer's mistake; never used for outside data. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`invariant: ${message}`);
}
