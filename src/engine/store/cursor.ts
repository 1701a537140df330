/**
 * Keyset cursors: a page ends at a row, and the next begins after it, whatever was added or deleted in
 * between. A cursor is the row's (created_at, id) as base64url JSON: opaque to callers, hostile until parsed.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Page } from "./types.ts";

export interface Position {
  readonly createdAt: Date;
  readonly id: string;
}

const maxCursorChars = 200;

export function encodeCursor(position: Position): string {
  return Buffer.from(JSON.stringify([position.createdAt.getTime(), position.id])).toString("base64url");
}

/** @throws invalid_request for anything `encodeCursor` did not make. */
export function decodeCursor(cursor: string): Position {
  const parsed = cursor.length <= maxCursorChars ? tryParse(cursor) : null;
  if (Array.isArray(parsed) && parsed.length === 2) {
    const [time, id] = parsed as unknown[];
    if (typeof time === "number" && Number.isSafeInteger(time) && time >= 0 && time < 8.64e15) {
      if (typeof id === "string" && /^[a-z]+_[0-9a-z]{1,60}$/.test(id)) return { createdAt: new Date(time), id };
    }
  }
  throw new CodedError(
    "invalid_request",
    `after: ${JSON.stringify(cursor.slice(0, 60))} is not a cursor of this list`,
    {
      fields: [{ pointer: "/after", detail: "must be the `next` of the page before" }],
    },
  );
}

function tryParse(cursor: string): unknown {
  try {
    return JSON.parse(Buffer.from(cursor, "base64url").toString("utf8"));
  } catch {
    return null;
  }
}

/** Cuts rows fetched with `limit + 1` into a page. */
export function toPage<Row extends Position>(rows: readonly Row[], limit: number): Page<Row> {
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return { rows: page, next: rows.length > limit && last ? encodeCursor(last) : null };
}
