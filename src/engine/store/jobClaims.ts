/**
 * How an attempt begins. The queue delivers an entry at least once; the job's row decides. An entry that the
 * row does not name is stale. A row that is already running, delivered again, means that its worker was given
 * up for dead: the new attempt takes over, and its number fences the old one off.
 */
import { eq, inArray, sql } from "drizzle-orm";
import type { Database } from "./client.ts";
import { addEvents, changeJob, endedFields, queuedFields, statusEvent } from "./jobRows.ts";
import { dropLeftovers, readPayload } from "./jobPayloads.ts";
import type { Enqueue } from "./jobTypes.ts";
import { jobs } from "./schema.ts";
import type { JobRow } from "./types.ts";

type FullRow = typeof jobs.$inferSelect;

/** Writes the queue entry and names it in the row. */
export async function enqueueJob(tx: Database, row: JobRow, enqueue: Enqueue, delayMs: number): Promise<JobRow> {
  const handle = { tx: tx as unknown as Parameters<Enqueue>[0]["tx"], sql: sql as Parameters<Enqueue>[0]["sql"] };
  const queueEntry = await enqueue(handle, { id: row.id, kind: row.kind, request: row.request }, delayMs);
  const [changed] = await tx.update(jobs).set({ queueEntry }).where(eq(jobs.id, row.id)).returning();
  return changed as JobRow;
}

export async function claimJob(tx: Database, id: string, entry: string, worker: string): Promise<JobRow | null> {
  const [row] = await tx.select().from(jobs).where(eq(jobs.id, id)).for("update");
  if (!row || row.queueEntry !== entry) return null;
  if (row.status === "running" && (await interrupted(tx, row)).status === "failed") return null;
  if (row.status !== "running" && row.status !== "queued") return null;
  if (row.control === "cancel") return (await endUnrun(tx, row), null);
  const claimed = await changeJob(tx, id, {
    status: "running",
    attempts: row.attempts + 1,
    worker,
    startedAt: row.startedAt ?? new Date(),
    finishedAt: null,
    error: null,
  });
  await addEvents(tx, id, [statusEvent(claimed, { worker })]);
  return { ...claimed, request: (await readPayload(tx, id)) ?? claimed.request };
}

/** A cancel that reached a worker which died before it obeyed. */
async function endUnrun(tx: Database, row: FullRow): Promise<void> {
  const ended = await changeJob(tx, row.id, endedFields("cancelled"));
  await dropLeftovers(tx, row.id);
  await addEvents(tx, row.id, [statusEvent(ended)]);
}

/** Counts the loss of a worker; a job that keeps killing its worker ends. */
async function interrupted(tx: Database, row: FullRow): Promise<FullRow> {
  const failures = row.failures + 1;
  if (failures < row.maxAttempts) return changeJob(tx, row.id, { failures });
  const message = `the process that ran this job died or was lost ${failures} times in a row`;
  const error = { code: "compute_crashed" as const, message };
  const ended = await changeJob(tx, row.id, { ...endedFields("failed"), error, failures });
  await dropLeftovers(tx, row.id);
  await addEvents(tx, row.id, [statusEvent(ended)]);
  return ended;
}

/** See JobWriter.recover. */
export async function recoverJobs(db: Database, enqueue: Enqueue): Promise<string[]> {
  const unfinished = await db
    .select({ id: jobs.id, status: jobs.status })
    .from(jobs)
    .where(inArray(jobs.status, ["queued", "running"]))
    .orderBy(jobs.createdAt, jobs.id);
  for (const { id } of unfinished) {
    await db.transaction(async (tx) => {
      const [row] = await tx.select().from(jobs).where(eq(jobs.id, id)).for("update");
      if (row?.status === "running") {
        if ((await interrupted(tx, row)).status === "failed") return;
        if (row.control === "cancel") return endUnrun(tx, row);
        const pausing = row.control === "pause";
        const idle = { control: null, worker: null };
        const queued = await changeJob(tx, id, pausing ? { ...idle, status: "paused" } : { ...queuedFields, ...idle });
        await addEvents(tx, id, [statusEvent(queued, { reason: "the process that ran it stopped" })]);
        if (pausing) return;
      }
      if (row) await enqueueJob(tx, row, enqueue, 0);
    });
  }
  return unfinished.filter((row) => row.status === "running").map((row) => row.id);
}
