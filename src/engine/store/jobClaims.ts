/**
 * How an attempt begins. The queue delivers an entry at least once; the job's row decides. An entry that the
 * row does not name is stale. A row that is already running, delivered again, means that its worker was given
 * up for dead: the new attempt takes over, and its number fences the old one off.
 */
import type { SQL } from "./drizzle.ts";
import { and, eq, gt, inArray, isNotNull, isNull, notExists, sql } from "./drizzle.ts";
import type { Database } from "./client.ts";
import { addEvents, changeJob, endedFields, queuedFields, statusEvent } from "./jobRows.ts";
import { dropLeftovers, readPayload } from "./jobPayloads.ts";
import type { Claimant, Enqueue, JobWriter, WaitingQueue } from "./jobTypes.ts";
import { jobs, workers } from "./schema.ts";
import type { JobRow } from "./types.ts";

type FullRow = typeof jobs.$inferSelect;

type Write = <T>(id: string, work: (tx: Database) => Promise<T>) => Promise<T>;

/**
 * @param write runs one transaction and wakes whoever waits for the job
 * @param lostAfterSeconds a worker silent for so long is lost
 */
export function createJobClaims(
  db: Database,
  write: Write,
  lostAfterSeconds: number,
): Pick<JobWriter, "waiting" | "claim" | "recover" | "lost" | "giveBack" | "adopt" | "unfinished"> {
  const { id, kind, request, backend, needsBytes } = jobs;
  const heard = heardOf(db, lostAfterSeconds);
  /** Running, and its worker was not heard of for a while. */
  const isLost = and(eq(jobs.status, "running"), notExists(heard));
  return {
    waiting: () => waitingQueues(db, heard),
    claim: (job, entry, claimant) => write(job, (tx) => claimJob(tx, job, entry, claimant)),
    recover: (enqueue) => recoverJobs(db, enqueue),
    lost: () => db.select({ id, kind, request, backend, needsBytes }).from(jobs).where(isLost),
    giveBack: (lost, enqueue) => giveBackJobs(db, lost, isLost, enqueue),
    adopt: (enqueue) => adoptJobs(db, enqueue),
    unfinished() {
      const open = inArray(jobs.status, ["queued", "running", "paused"]);
      return db.select({ kind, request, backend, needsBytes }).from(jobs).where(open);
    },
  };
}

/** Writes the queue entry and names it in the row. */
export async function enqueueJob(tx: Database, row: JobRow, enqueue: Enqueue, delayMs: number): Promise<JobRow> {
  const handle = { tx: tx as unknown as Parameters<Enqueue>[0]["tx"], sql: sql as Parameters<Enqueue>[0]["sql"] };
  const { entry: queueEntry, selector } = await enqueue(handle, row, delayMs);
  const queuedAt = new Date(Date.now() + delayMs);
  const [changed] = await tx
    .update(jobs)
    .set({ queueEntry, selector, queuedAt })
    .where(eq(jobs.id, row.id))
    .returning();
  return changed as JobRow;
}

/** The worker of a job, where it was heard of lately. */
const heardOf = (db: Database, lostAfterSeconds: number) =>
  db
    .select({ one: sql`1` })
    .from(workers)
    .where(
      and(
        eq(workers.id, jobs.worker),
        gt(workers.heartbeatAt, sql`now() - make_interval(secs => ${lostAfterSeconds})`),
      ),
    );

/** See JobWriter.waiting. */
async function waitingQueues(db: Database, heard: ReturnType<typeof heardOf>): Promise<WaitingQueue[]> {
  const waits = sql`(${jobs.status} = 'queued' and ${jobs.queuedAt} <= now())
    or (${jobs.status} = 'running' and not exists (${heard}))`;
  const waitedMs = sql<string | null>`max(extract(epoch from now() - ${jobs.queuedAt}) * 1000) filter (where ${waits})`;
  const rows = await db
    .select({
      selector: jobs.selector,
      waitedMs,
      queued: sql<string>`count(*) filter (where ${jobs.status} = 'queued')`,
    })
    .from(jobs)
    .where(and(inArray(jobs.status, ["queued", "running"]), isNotNull(jobs.selector)))
    .groupBy(jobs.selector)
    .orderBy(sql`${waitedMs} desc nulls last`);
  return rows.map(({ selector, waitedMs: ms, queued }) => {
    return { selector: selector ?? "", waitedMs: ms === null ? null : Number(ms), queued: Number(queued) };
  });
}

async function claimJob(tx: Database, id: string, entry: string, claimant: Claimant): Promise<JobRow | null> {
  const { worker, canDo, enqueue } = claimant;
  const [row] = await tx.select().from(jobs).where(eq(jobs.id, id)).for("update");
  if (!row || row.queueEntry !== entry) return null;
  if (row.status === "running" && (await interrupted(tx, row)).status === "failed") return null;
  if (row.status !== "running" && row.status !== "queued") return null;
  if (row.control === "cancel") return (await endUnrun(tx, row), null);
  if (!canDo(row)) return (await moveOn(tx, row, enqueue), null);
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

/** A job whose backend was pinned since its entry was written waits for a worker that has it. */
async function moveOn(tx: Database, row: FullRow, enqueue: Enqueue): Promise<void> {
  const queued = await changeJob(tx, row.id, queuedFields);
  await addEvents(tx, row.id, [statusEvent(queued, { reason: `it waits for a worker with ${row.backend}` })]);
  await enqueueJob(tx, queued, enqueue, 0);
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
async function recoverJobs(db: Database, enqueue: Enqueue): Promise<string[]> {
  const unfinished = await db
    .select({ id: jobs.id, status: jobs.status })
    .from(jobs)
    .where(inArray(jobs.status, ["queued", "running"]))
    .orderBy(jobs.createdAt, jobs.id);
  for (const { id } of unfinished) {
    await db.transaction(async (tx) => {
      const [row] = await tx.select().from(jobs).where(eq(jobs.id, id)).for("update");
      if (row?.status === "running") await queueInterrupted(tx, row, enqueue, "the process that ran it stopped");
      else if (row) await enqueueJob(tx, row, enqueue, 0);
    });
  }
  return unfinished.filter((row) => row.status === "running").map((row) => row.id);
}

/** Queues a job again whose process is gone, unless it was to stop anyway, or has failed too often. */
async function queueInterrupted(tx: Database, row: FullRow, enqueue: Enqueue, reason: string): Promise<void> {
  if ((await interrupted(tx, row)).status === "failed") return;
  if (row.control === "cancel") return endUnrun(tx, row);
  const pausing = row.control === "pause";
  const idle = { control: null, worker: null };
  const queued = await changeJob(tx, row.id, pausing ? { ...idle, status: "paused" } : { ...queuedFields, ...idle });
  await addEvents(tx, row.id, [statusEvent(queued, { reason })]);
  if (!pausing) await enqueueJob(tx, queued, enqueue, 0);
}

/** See JobWriter.giveBack. */
async function giveBackJobs(
  db: Database,
  lost: readonly { id: string }[],
  isLost: SQL | undefined,
  enqueue: Enqueue,
): Promise<string[]> {
  const queued: string[] = [];
  for (const { id } of lost) {
    await db.transaction(async (tx) => {
      const still = and(eq(jobs.id, id), isLost);
      const [row] = await tx.select().from(jobs).where(still).for("update", { skipLocked: true });
      if (!row) return;
      await queueInterrupted(tx, row, enqueue, "its worker was lost");
      queued.push(id);
    });
  }
  return queued;
}

/** See JobWriter.adopt. */
async function adoptJobs(db: Database, enqueue: Enqueue): Promise<void> {
  const strays = and(eq(jobs.status, "queued"), isNull(jobs.selector));
  for (const { id } of await db.select({ id: jobs.id }).from(jobs).where(strays).orderBy(jobs.createdAt, jobs.id)) {
    await db.transaction(async (tx) => {
      const [row] = await tx
        .select()
        .from(jobs)
        .where(and(eq(jobs.id, id), strays))
        .for("update");
      if (row) await enqueueJob(tx, row, enqueue, 0);
    });
  }
}
