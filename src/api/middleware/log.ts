/**
 * One log line and one observation per request, by route template: a path with an id in it never becomes a label.
 * Bodies, queries and headers are not logged, since they may hold secrets.
 */
import type { Logger } from "pino";
import type { Metrics } from "../../engine/metrics.ts";

export interface AnsweredRequest {
  readonly method: string;
  /** Route template, or `(none)`. */
  readonly route: string;
  readonly status: number;
  /** Until the head of the answer was there, ms. */
  readonly durationMs: number;
  readonly principal: string | null;
}

const methods = new Set(["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]);

/** @param log of the request: its lines carry the request id */
export function logRequest(log: Logger, answered: AnsweredRequest): void {
  const { method, route, status, durationMs, principal } = answered;
  const line = { method, route, status, duration_ms: Math.round(durationMs * 10) / 10, principal };
  log.info(line, "request");
}

export function countRequest(metrics: Metrics, { method, route, status, durationMs }: AnsweredRequest): void {
  // a client may invent methods without end
  const known = methods.has(method) ? method : "other";
  metrics.httpRequests.inc({ method: known, route, status: String(status) });
  metrics.httpDurationSeconds.observe({ method: known, route }, durationMs / 1000);
}
