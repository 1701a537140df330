/** The few statements that every change of a job is made of. All run within a transaction. */
import { and, eq, sql, type SQL } from "./drizzle.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { Database } from "./client.ts";
import type { Claim, NewEvent } from "./jobTypes.ts";
import { LostClaimError } from "./jobTypes.ts";
import { jobEvents, jobs } from "./schema.ts";
import type { JobRow, JobStatus } from "./types.ts";

type Fields = { [Name in keyof typeof jobs.$inferInsert]?: (typeof jobs.$inferInsert)[Name] | SQL };
type FullRow = typeof jobs.$inferSelect;

/** Events in one insert. */
const eventBatch = 1_000;

const owned = (claim: Claim): SQL | undefined =>
  and(eq(jobs.id, claim.id), eq(jobs.attempts, claim.attempt), eq(jobs.status, "running"));

/** As `changeOwned`, without reading the row back: a request may hold megabytes of text. @throws LostClaimError */
export async function touchOwned(tx: Database, claim: Claim, fields: Fields): Promise<void> {
  const touched = await tx.update(jobs).set(withVersion(fields)).where(owned(claim)).returning({ id: jobs.id });
  if (touched.length === 0) throw new LostClaimError(claim);
}

/** Changes a job that the claim still owns, and holds its row. @throws LostClaimError */
export async function changeOwned(tx: Database, claim: Claim, fields: Fields): Promise<FullRow> {
  const [row] = await tx.update(jobs).set(withVersion(fields)).where(owned(claim)).returning();
  if (!row) throw new LostClaimError(claim);
  return row;
}

/** Changes a job whose row the transaction holds already. */
export async function changeJob(tx: Database, id: string, fields: Fields): Promise<FullRow> {
  const [row] = await tx.update(jobs).set(withVersion(fields)).where(eq(jobs.id, id)).returning();
  if (!row) throw new Error(`the held job ${id} is gone`);
  return row;
}

function withVersion(fields: Fields): Fields {
  return { ...fields, version: sql`${jobs.version} + 1` };
}

/** Appends events with the next numbers; the job's row is held by the caller, so there are no gaps. */
export async function addEvents(tx: Database, id: string, events: readonly NewEvent[]): Promise<void> {
  for (let i = 0; i < events.length; i += eventBatch) {
    const part = events.slice(i, i + eventBatch);
    const [row] = await tx
      .update(jobs)
      .set({ lastSeq: sql`${jobs.lastSeq} + ${part.length}` })
      .where(eq(jobs.id, id))
      .returning({ lastSeq: jobs.lastSeq });
    if (!row) throw new Error(`the held job ${id} is gone`);
    const first = row.lastSeq - part.length + 1;
    const createdAt = new Date();
    await tx.insert(jobEvents).values(part.map((event, k) => ({ job: id, seq: first + k, ...event, createdAt })));
  }
}

/** What a change of status looks like among the events. */
export function statusEvent(row: JobRow, extra: JsonObject = {}): NewEvent {
  const error: ErrorRecord | null = row.error;
  const why = error === null ? {} : { error: { code: error.code, message: error.message } };
  return { type: "status", data: { status: row.status, attempt: row.attempts, ...why, ...extra } };
}

/** Fields of a job that has ended: nothing is left to resume or to control. */
export function endedFields(status: JobStatus): Fields {
  return { status, control: null, resume: null, queueEntry: null, finishedAt: new Date() };
}

export const queuedFields: Fields = { status: "queued", worker: null };
