/**
 * Requests that are too long for a row that lists and polls read again and again (a dataset's inline text may
 * have megabytes). The row shows a shortened copy; an attempt gets the whole, which goes when the job ends. So do
 * the pieces of work done that jobs keep which have no resume point.
 */
import { asc, eq, max } from "./drizzle.ts";
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import { setBlobRefs } from "./blobs.ts";
import type { Database } from "./client.ts";
import { jobParts, jobPayloads } from "./schema.ts";

/** Characters of JSON that a row holds itself. */
const maxInlineChars = 64 * 1024;
/** What is left of a long string, and of a long list. */
const shownChars = 200;
const maxStringChars = 2_000;
const shownItems = 20;
const maxItems = 1_000;

/** @returns the request as its row shows it, and the whole where that is not the same. */
export function splitRequest(request: JsonObject): { shown: JsonObject; whole: JsonObject | null } {
  if (JSON.stringify(request).length <= maxInlineChars) return { shown: request, whole: null };
  return { shown: shorten(request) as JsonObject, whole: request };
}

function shorten(value: JsonValue): JsonValue {
  if (typeof value === "string" && value.length > maxStringChars) {
    return `${value.slice(0, shownChars).toWellFormed()}... (${value.length} characters)`;
  }
  if (Array.isArray(value)) {
    const items = value.length > maxItems ? value.slice(0, shownItems) : value;
    const rest = items.length < value.length ? [`... (${value.length} items)`] : [];
    return [...items.map(shorten), ...rest];
  }
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, shorten(member)]));
}

export async function keepPayload(tx: Database, job: string, request: JsonObject): Promise<void> {
  await tx.insert(jobPayloads).values({ job, request });
}

/** @returns the whole request, or null where the row has it. */
export async function readPayload(tx: Database, job: string): Promise<JsonObject | null> {
  const [row] = await tx.select().from(jobPayloads).where(eq(jobPayloads.job, job));
  return row?.request ?? null;
}

/** Adds to what a job has done so far; the job's row is held by the caller. */
export async function keepPart(tx: Database, job: string, data: JsonObject): Promise<void> {
  const [last] = await tx
    .select({ seq: max(jobParts.seq) })
    .from(jobParts)
    .where(eq(jobParts.job, job));
  await tx.insert(jobParts).values({ job, seq: (last?.seq ?? 0) + 1, data });
}

/** @returns what a job has done so far, in the order in which it was kept. */
export async function readParts(db: Database, job: string): Promise<JsonObject[]> {
  const rows = await db.select().from(jobParts).where(eq(jobParts.job, job)).orderBy(asc(jobParts.seq));
  return rows.map((row) => row.data);
}

/** A job that has ended needs neither its resume point and its parts nor its whole request. */
export async function dropLeftovers(tx: Database, job: string): Promise<void> {
  await setBlobRefs(tx, job, []);
  await tx.delete(jobParts).where(eq(jobParts.job, job));
  await tx.delete(jobPayloads).where(eq(jobPayloads.job, job));
}
