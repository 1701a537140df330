/**
 * Writes of the runner and the queue. A job's row, its events and its queue entry change in one transaction,
 * so that none of them can be without the others. States: queued -> running -> succeeded | failed |
 * cancelled | paused, and back to queued by retry, release and resume. What a user asks is in jobControl.ts.
 */
import { and, eq, sql } from "./drizzle.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { TrainingState } from "../../ops/events.ts";
import type { BlobFiles } from "./blobs.ts";
import { insertBlobs, setBlobRefs } from "./blobs.ts";
import type { Changes } from "./changes.ts";
import { insertCheckpoint } from "./checkpoints.ts";
import type { Database } from "./client.ts";
import { holdDataset, insertDataset } from "./datasets.ts";
import { insertResults } from "./evaluations.ts";
import { newId } from "./ids.ts";
import { createJobControl } from "./jobControl.ts";
import { createJobClaims, enqueueJob } from "./jobClaims.ts";
import { addEvents, changeOwned, endedFields, queuedFields, statusEvent, touchOwned } from "./jobRows.ts";
import type { Claim, Enqueue, JobOutcome, JobWriter, NewJob } from "./jobTypes.ts";
import { dropLeftovers, keepPart, keepPayload, readParts, splitRequest } from "./jobPayloads.ts";
import { holdCheckpoint } from "./lineage.ts";
import { evaluations, jobs, jobUses } from "./schema.ts";
import type { CheckpointRow, JobRow, NewBlobRow } from "./types.ts";

/** @param lostAfterSeconds a worker silent for so long has lost its jobs */
export function createJobWriter(db: Database, files: BlobFiles, changes: Changes, lostAfterSeconds: number): JobWriter {
  /** Runs one transaction and wakes whoever waits for the job. */
  const write = async <T>(id: string, work: (tx: Database) => Promise<T>): Promise<T> => {
    const made = await db.transaction((tx) => work(tx));
    changes.notify(id);
    return made;
  };
  return {
    countQueued: () => db.$count(jobs, eq(jobs.status, "queued")),
    async insert(job, enqueue) {
      const row = await db.transaction((tx) => insertJob(tx, job, enqueue));
      changes.notify(row.id);
      return row;
    },
    append: (claim, events, progress) =>
      write(claim.id, async (tx) => {
        await touchOwned(tx, claim, progress === null ? {} : { progress });
        await addEvents(tx, claim.id, events);
      }),
    setBackend: (claim, backend) => write(claim.id, (tx) => touchOwned(tx, claim, { backend })),
    save: (claim, state, blobs, publish) =>
      write(claim.id, async (tx) => {
        await touchOwned(tx, claim, { resume: state, failures: 0 });
        const gained = await insertBlobs(tx, blobs.map(internal), files);
        await setBlobRefs(tx, claim.id, blobsOfState(state));
        if (publish === null) return null;
        const made = await insertCheckpoint(tx, publish, files, gained);
        await addEvents(tx, claim.id, [checkpointEvent(made, state)]);
        return made;
      }),
    keepPart: (claim, data) =>
      write(claim.id, async (tx) => {
        await touchOwned(tx, claim, { failures: 0 });
        await keepPart(tx, claim.id, data);
      }),
    parts: (id) => readParts(db, id),
    succeed: (claim, outcome) => write(claim.id, (tx) => succeed(tx, claim, outcome, files)),
    fail: (claim, error) => write(claim.id, (tx) => end(tx, claim, "failed", error)),
    hold: (claim, error) =>
      write(claim.id, async (tx) => {
        const { resume } = await changeOwned(tx, claim, {});
        return resume === null ? end(tx, claim, "failed", error) : pause(tx, claim, error);
      }),
    retry: (claim, error, delayMs, enqueue) =>
      write(claim.id, async (tx) => {
        const row = await changeOwned(tx, claim, { failures: sql`${jobs.failures} + 1` });
        if (row.failures >= row.maxAttempts) return end(tx, claim, "failed", afterAttempts(error, row.failures));
        return queueAgain(tx, claim, enqueue, delayMs(row.failures), error);
      }),
    release: (claim, enqueue) => write(claim.id, (tx) => queueAgain(tx, claim, enqueue, 0, null)),
    stop: (claim, status) =>
      write(claim.id, async (tx) => {
        return status === "cancelled" ? end(tx, claim, "cancelled", null) : pause(tx, claim, null);
      }),
    async control(claim) {
      const [row] = await db
        .select({ control: jobs.control })
        .from(jobs)
        .where(and(eq(jobs.id, claim.id), eq(jobs.attempts, claim.attempt), eq(jobs.status, "running")));
      return { owned: row !== undefined, control: row?.control ?? null };
    },
    ...createJobControl(db, changes),
    ...createJobClaims(db, write, lostAfterSeconds),
  };
}

async function insertJob(tx: Database, job: NewJob, enqueue: Enqueue): Promise<JobRow> {
  // in one order everywhere, so that two transactions never wait for each other in a circle
  for (const id of [...new Set(job.checkpoints)].sort()) await holdCheckpoint(tx, id);
  for (const id of [...new Set(job.datasets)].sort()) await holdDataset(tx, id);
  const id = newId("job");
  const evaluation = job.evaluation === null ? null : newId("eval");
  const createdAt = new Date();
  const asked = evaluation === null ? job.request : { ...job.request, evaluation };
  const { shown: request, whole } = splitRequest(asked);
  const { kind, maxAttempts, backend, needsBytes } = job;
  const [row] = await tx
    .insert(jobs)
    .values({
      ...{ id, kind, request, maxAttempts, backend, needsBytes, createdAt },
      ...{ status: "queued", progress: { fraction: 0 }, attempts: 0, failures: 0, lastSeq: 0, version: 1 },
    })
    .returning();
  if (whole !== null) await keepPayload(tx, id, whole);
  const uses = [...new Set([...job.checkpoints, ...job.datasets])];
  if (uses.length > 0) await tx.insert(jobUses).values(uses.map((resource) => ({ job: id, resource })));
  if (job.evaluation !== null && evaluation !== null) {
    const { checkpoint } = job.evaluation;
    await tx
      .insert(evaluations)
      .values({ id: evaluation, checkpoint, job: id, request: job.request, version: 1, createdAt });
  }
  await addEvents(tx, id, [statusEvent(row as JobRow)]);
  return enqueueJob(tx, row as JobRow, enqueue, 0);
}

async function succeed(tx: Database, claim: Claim, outcome: JobOutcome, files: BlobFiles): Promise<JobRow> {
  // holds the row first: whoever lost the claim writes nothing at all
  const { progress } = await changeOwned(tx, claim, {});
  const checkpoint = outcome.checkpoint ? await insertCheckpoint(tx, outcome.checkpoint, files) : null;
  const dataset = outcome.dataset ? await insertDataset(tx, outcome.dataset, files) : null;
  if (outcome.evaluation) await insertResults(tx, outcome.evaluation.id, outcome.evaluation.results, files);
  if (checkpoint) await addEvents(tx, claim.id, [checkpointEvent(checkpoint, null)]);
  const row = await changeOwned(tx, claim, {
    ...endedFields("succeeded"),
    result: outcome.result({ checkpoint, dataset }),
    progress: { ...progress, fraction: 1, etaSeconds: 0 },
  });
  await dropLeftovers(tx, claim.id);
  await addEvents(tx, claim.id, [statusEvent(row)]);
  return row;
}

async function pause(tx: Database, claim: Claim, error: ErrorRecord | null): Promise<JobRow> {
  const idle = { control: null, worker: null, queueEntry: null };
  const row = await changeOwned(tx, claim, { ...idle, status: "paused", failures: 0, error });
  await addEvents(tx, claim.id, [statusEvent(row)]);
  return row;
}

async function end(
  tx: Database,
  claim: Claim,
  status: "failed" | "cancelled",
  error: ErrorRecord | null,
): Promise<JobRow> {
  const row = await changeOwned(tx, claim, { ...endedFields(status), error });
  await dropLeftovers(tx, claim.id);
  await addEvents(tx, claim.id, [statusEvent(row)]);
  return row;
}

async function queueAgain(
  tx: Database,
  claim: Claim,
  enqueue: Enqueue,
  delayMs: number,
  error: ErrorRecord | null,
): Promise<JobRow> {
  const row = await changeOwned(tx, claim, queuedFields);
  const extra =
    error === null ? {} : { error: { code: error.code, message: error.message }, retry_in_seconds: delayMs / 1000 };
  await addEvents(tx, claim.id, [statusEvent(row, extra)]);
  return enqueueJob(tx, row, enqueue, delayMs);
}

function afterAttempts(error: ErrorRecord, failures: number): ErrorRecord {
  return failures === 1 ? error : { ...error, message: `${error.message} (after ${failures} attempts)` };
}

function checkpointEvent(
  row: CheckpointRow,
  state: TrainingState | null,
): { type: "checkpoint"; data: { [key: string]: string | number } } {
  const at = state === null ? {} : { step: state.step, tokens: state.tokens };
  return { type: "checkpoint", data: { checkpoint: row.id, ...at } };
}

function internal(blob: { digest: string; sizeBytes: number }): NewBlobRow {
  return { digest: blob.digest, sizeBytes: blob.sizeBytes, external: null };
}

function blobsOfState(state: TrainingState): Set<string> {
  const { weights, optimizer } = state;
  const refs = [...weights, ...optimizer.firstMoments, ...optimizer.secondMoments];
  return new Set(refs.map((tensor) => tensor.blob));
}
