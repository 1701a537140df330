/**
 * What a user asks of a job. A job that nobody runs changes at once; a running one gets a note in `control`
 * that its runner obeys within half a second.
 */
import { eq } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { Changes } from "./changes.ts";
import type { Database } from "./client.ts";
import { enqueueJob } from "./jobClaims.ts";
import { dropLeftovers } from "./jobPayloads.ts";
import { addEvents, changeJob, endedFields, queuedFields, statusEvent } from "./jobRows.ts";
import type { JobWriter } from "./jobTypes.ts";
import { jobs } from "./schema.ts";
import type { JobRow } from "./types.ts";

/** Whether the job can stop at a resume point: it trains. */
function isPausable({ kind, request }: JobRow): boolean {
  return kind === "training" || (kind === "growth" && request["operator"] === "learn");
}

const ended = new Set(["succeeded", "failed", "cancelled"]);

export function createJobControl(db: Database, changes: Changes): Pick<JobWriter, "cancel" | "pause" | "resume"> {
  const steer = async (id: string, work: (tx: Database, row: JobRow) => Promise<JobRow>): Promise<JobRow> => {
    const changed = await db.transaction(async (tx) => {
      const [row] = await tx.select().from(jobs).where(eq(jobs.id, id)).for("update");
      if (!row) throw new CodedError("not_found", `no job ${JSON.stringify(id)}`);
      return work(tx, row);
    });
    changes.notify(id);
    return changed;
  };
  return {
    cancel: (id) =>
      steer(id, async (tx, row) => {
        assertGoing(row, "cancelled");
        if (row.status === "running") return changeJob(tx, id, { control: "cancel" });
        const cancelled = await changeJob(tx, id, endedFields("cancelled"));
        await dropLeftovers(tx, id);
        await addEvents(tx, id, [statusEvent(cancelled)]);
        return cancelled;
      }),
    pause: (id) =>
      steer(id, async (tx, row) => {
        if (!isPausable(row)) {
          throw new CodedError(
            "conflict",
            `${id} is a ${row.kind}; only a training, or a growth that learns, can be paused`,
          );
        }
        assertGoing(row, "paused");
        if (row.status === "paused") return row;
        if (row.control === "cancel") throw new CodedError("conflict", `${id} is being cancelled`);
        if (row.status === "running") return changeJob(tx, id, { control: "pause" });
        const paused = await changeJob(tx, id, { status: "paused", queueEntry: null });
        await addEvents(tx, id, [statusEvent(paused)]);
        return paused;
      }),
    resume: (id, enqueue) =>
      steer(id, async (tx, row) => {
        if (row.status !== "paused") throw new CodedError("conflict", `${id} is ${row.status}, not paused`);
        const queued = await changeJob(tx, id, { ...queuedFields, error: null });
        await addEvents(tx, id, [statusEvent(queued)]);
        return enqueueJob(tx, queued, enqueue, 0);
      }),
  };
}

function assertGoing(row: JobRow, wanted: string): void {
  if (ended.has(row.status))
    throw new CodedError("conflict", `${row.id} is ${row.status} already and cannot be ${wanted}`);
}
