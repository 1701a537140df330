/**
 * How a request for long work is answered: `202` with the job and its address, at once or, with `Prefer: wait=N`
 * (RFC 7240), when the job has settled or N seconds have passed; a job that has ended or is paused is a `200`.
 */
import type { JobRequests } from "../engine/jobs/requests.ts";
import type { JobQueue } from "../engine/jobs/types.ts";
import type { JobRow, JobStore, Store } from "../engine/store/types.ts";
import type { WorkerRow } from "../engine/store/workerTypes.ts";
import type { JsonReply, Schemas } from "./handlers.ts";
import { createGate, type Gate } from "./middleware/limits.ts";
import { presentJob } from "./present.ts";
import type { DeclaredRequests } from "./requestsFit.ts";

const maxWaitSeconds = 300;
/** Answers held at once; more are given at once, without `Preference-Applied`. */
const maxHeld = 200;
/** The job is looked at again at least so often, ms. */
const lookAgainMs = 5_000;

export type JobReply = JsonReply<200, Schemas["Job"]> | JsonReply<202, Schemas["Job"]>;

/** What the answer needs of a call. */
export interface WaitingCall {
  readonly header: { readonly Prefer?: string };
  readonly signal: AbortSignal;
}

export interface JobAnswers {
  /** Queues the work that a body of the contract asks for, and answers with its job. */
  submit<Kind extends keyof DeclaredRequests>(
    kind: Kind,
    body: DeclaredRequests[Kind],
    call: WaitingCall,
  ): Promise<JobReply>;
  answer(job: JobRow, call: WaitingCall): Promise<JobReply>;
}

export function createJobAnswers(queue: JobQueue, store: Pick<Store, "jobs" | "workers">): JobAnswers {
  const { jobs } = store;
  const gate = createGate(maxHeld, "held answers");
  const answer = async (job: JobRow, { header, signal }: WaitingCall): Promise<JobReply> => {
    const seconds = waitSeconds(header.Prefer);
    const held = seconds !== null && gate.inside < maxHeld;
    const row = held ? await waitFor(jobs, job, seconds * 1000, signal, gate) : job;
    const headers = { Location: `/v1/jobs/${row.id}`, ...(held ? { "Preference-Applied": `wait=${seconds}` } : {}) };
    const body = presentJob(row, await workersFor([row], store));
    return isSettled(row) ? { status: 200, body, headers } : { status: 202, body, headers };
  };
  return {
    answer,
    async submit(kind, body, call) {
      // the queue makes an evaluation's row and puts its id here
      const request = kind === "evaluation" ? { ...body, evaluation: "" } : body;
      return answer(await queue.submit(kind, request as JobRequests[typeof kind]), call);
    },
  };
}

/** @returns the workers, where one of the jobs waits for one. */
export async function workersFor(
  rows: readonly JobRow[],
  { workers }: Pick<Store, "workers">,
): Promise<readonly WorkerRow[]> {
  return rows.some(({ status }) => status === "queued") ? workers.list() : [];
}

/** @returns whether nothing more happens to the job unless somebody asks for it. */
export function isSettled({ status }: JobRow): boolean {
  return status !== "queued" && status !== "running";
}

/** @returns whether the job's history is complete. */
export function hasEnded({ status }: JobRow): boolean {
  return status === "succeeded" || status === "failed" || status === "cancelled";
}

/** @returns seconds of a `wait` preference, at most `maxWaitSeconds`; other preferences are not for us. */
function waitSeconds(prefer: string | undefined): number | null {
  const match = /(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)/i.exec(prefer ?? "");
  return match ? Math.min(Number(match[1]), maxWaitSeconds) : null;
}

async function waitFor(jobs: JobStore, job: JobRow, waitMs: number, signal: AbortSignal, gate: Gate): Promise<JobRow> {
  const leave = gate.enter();
  const untilMs = performance.now() + waitMs;
  try {
    for (let row = job; ;) {
      const leftMs = untilMs - performance.now();
      if (isSettled(row) || leftMs <= 0 || signal.aborted) return row;
      // asked before the row is read again, so that no change between the two is missed
      const changed = jobs.changed(row.id, Math.min(leftMs, lookAgainMs), signal);
      row = await jobs.get(row.id);
      if (!isSettled(row)) await changed;
      row = await jobs.get(row.id);
    }
  } finally {
    leave();
  }
}
