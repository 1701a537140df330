/** Byte ranges of RFC 9110, section 14: one range of a representation whose length is known, asked for or sent. */
import { CodedError } from "../ops/errors.ts";

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/**
 * @param header of `Range`
 * @returns the range; null where the header is to be ignored (absent, malformed, another unit, several ranges)
 * @throws range_not_satisfiable when nothing of it lies within the representation
 */
export function parseRange(header: string | undefined, sizeBytes: number): ByteRange | null {
  const match = /^\s*bytes\s*=\s*(\d{0,16})\s*-\s*(\d{0,16})\s*$/i.exec(header ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return null;
  const [, first = "", last = ""] = match;
  if (first !== "" && last !== "" && Number(first) > Number(last)) return null;
  const offset = first === "" ? Math.max(0, sizeBytes - Number(last)) : Number(first);
  const end = first === "" || last === "" ? sizeBytes : Math.min(sizeBytes, Number(last) + 1);
  if (offset < end) return { offset, length: end - offset };
  throw new CodedError("range_not_satisfiable", `Range is ${String(header).trim()}; the file has ${sizeBytes} bytes`, {
    details: { size_bytes: sizeBytes },
  });
}

/**
 * @param header of `Content-Range`: `bytes FIRST-LAST/SIZE`, or `bytes * /SIZE` (without the blank) for none of it
 * @throws invalid_request for anything else
 */
export function parseContentRange(header: string): { readonly range: ByteRange | null; readonly sizeBytes: number } {
  const match = /^bytes (?:(\d{1,15})-(\d{1,15})|\*)\/(\d{1,15})$/.exec(header);
  const [, first, last, size] = match ?? [];
  const sizeBytes = Number(size);
  if (match && first === undefined) return { range: null, sizeBytes };
  const offset = Number(first);
  const length = Number(last) - offset + 1;
  if (match && length > 0 && offset + length <= sizeBytes) return { range: { offset, length }, sizeBytes };
  const got = JSON.stringify(header.slice(0, 100));
  const detail = `header parameter: is ${got}; wanted bytes FIRST-LAST/SIZE or bytes */SIZE`;
  throw new CodedError("invalid_request", `Content-Range: ${detail}`, {
    fields: [{ pointer: "/Content-Range", detail }],
  });
}
