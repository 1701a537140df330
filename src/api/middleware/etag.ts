/**
 * ETags (RFC 9110): a strong tag is a digest of the representation, so it changes whenever what a client sees does.
 * `If-None-Match` compares weakly, `If-Match` and `If-Range` strongly.
 */
import { createHash } from "node:crypto";
import { CodedError } from "../../ops/errors.ts";

/** @returns the tag of a JSON text, in quotes. */
export function etagOf(text: string): string {
  return `"${createHash("sha256").update(text).digest("base64url").slice(0, 27)}"`;
}

/** @returns whether an `If-None-Match` names `etag`, so that 304 is the answer. */
export function noneMatch(header: string | null | undefined, etag: string): boolean {
  return tags(header).some((tag) => tag === "*" || weak(tag) === weak(etag));
}

/**
 * Lets pass only a request whose `If-Match` names `etag` (or that has none).
 * @throws precondition_failed
 */
export function requireMatch(header: string | null | undefined, etag: string): void {
  if (header === undefined || header === null) return;
  if (tags(header).some((tag) => tag === "*" || tag === etag)) return;
  throw new CodedError("precondition_failed", `If-Match: got ${header.slice(0, 200)}, the resource has ${etag}`);
}

function tags(header: string | null | undefined): readonly string[] {
  return header?.match(/\*|(W\/)?"[^"]*"/g) ?? [];
}

function weak(tag: string): string {
  return tag.replace(/^W\//, "");
}
