/** Every request has an id, taken from `X-Request-Id` where that is harmless, and every answer shows it. */
import { randomUUID } from "node:crypto";

/** @returns the client's id, or a new one. */
export function requestIdOf(request: Request): string {
  const given = request.headers.get("x-request-id");
  return given !== null && /^[A-Za-z0-9._-]{1,128}$/.test(given) ? given : randomUUID();
}
