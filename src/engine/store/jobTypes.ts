/**
 * What a runner may write about jobs. Every write of a running job names the attempt it belongs to and is
 * refused once a later attempt has begun: a worker that was given up for dead can do no harm when it wakes.
 */
import type { ErrorRecord } from "../../ops/errors.ts";
import type { NewBlob, TrainingState } from "../../ops/events.ts";
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import type { NewDataset } from "./datasets.ts";
import type {
  CheckpointRow,
  DatasetRow,
  EvaluationResultRow,
  JobEventRow,
  JobProgress,
  JobRow,
  NewCheckpoint,
} from "./types.ts";

/** An open transaction, as the queue needs it to write its entry within. */
export interface TransactionHandle {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- the row type belongs to the statement
  readonly tx: { execute(query: unknown): Promise<{ rows: any[] }> };
  readonly sql: {
    (strings: TemplateStringsArray, ...values: unknown[]): unknown;
    param(value: unknown): unknown;
  };
}

/** What decides which queue a job waits in. */
export type QueuedJob = Pick<JobRow, "kind" | "request" | "backend" | "needsBytes">;

/** Writes the queue entry of a job within a transaction. @returns the entry's id and the queue that it is in */
export type Enqueue = (
  handle: TransactionHandle,
  job: QueuedJob & { readonly id: string },
  delayMs: number,
) => Promise<{ readonly entry: string; readonly selector: string }>;

/** A queue with jobs that wait or run. */
export interface WaitingQueue {
  readonly selector: string;
  /** How long the job that waits longest has waited, ms; null where none does: some run, or are not yet due. */
  readonly waitedMs: number | null;
  /** Jobs in it that are queued. */
  readonly queued: number;
}

/** Who claims a job, and whether it can do one that stands so; what it cannot do is queued where others look. */
export interface Claimant {
  readonly worker: string;
  readonly canDo: (job: QueuedJob) => boolean;
  readonly enqueue: Enqueue;
}

export interface NewJob {
  readonly kind: string;
  readonly request: JsonObject;
  readonly maxAttempts: number;
  readonly backend: string | null;
  readonly needsBytes: number | null;
  /** Checkpoints and datasets that must stay until the job ends. */
  readonly checkpoints: readonly string[];
  readonly datasets: readonly string[];
  /** An evaluation gets a row of its own, whose id joins the request as `evaluation`. */
  readonly evaluation: { readonly checkpoint: string } | null;
}

/** The right to write about a running job. */
export interface Claim {
  readonly id: string;
  readonly attempt: number;
}

export interface NewEvent {
  readonly type: JobEventRow["type"];
  readonly data: JsonValue;
}

/** What a job made; written with its result in one transaction. */
export interface JobOutcome {
  readonly checkpoint?: NewCheckpoint;
  readonly dataset?: NewDataset;
  readonly evaluation?: { readonly id: string; readonly results: readonly EvaluationResultRow[] };
  /** The result shown, given the rows just written. */
  readonly result: (made: { checkpoint: CheckpointRow | null; dataset: DatasetRow | null }) => JsonObject;
  /** Tidies up what the outcome has used, once it is written; failing does not matter. */
  readonly afterwards?: () => Promise<void>;
}

/** Thrown where a write comes from an attempt that is no longer the latest, or whose job has ended. */
export class LostClaimError extends Error {
  constructor(claim: Claim) {
    super(`attempt ${claim.attempt} of ${claim.id} is no longer the latest`);
    this.name = "LostClaimError";
  }
}

export interface JobWriter {
  countQueued(): Promise<number>;
  insert(job: NewJob, enqueue: Enqueue): Promise<JobRow>;
  /**
   * Every queue that may hold something to take, the one whose oldest job waits longest first. A job whose worker
   * is lost waits too.
   */
  waiting(): Promise<readonly WaitingQueue[]>;
  /** @returns the job as the new attempt finds it; null where the entry is stale, or others must do the job. */
  claim(id: string, entry: string, claimant: Claimant): Promise<JobRow | null>;
  /** @throws LostClaimError */
  append(claim: Claim, events: readonly NewEvent[], progress: JobProgress | null): Promise<void>;
  /** Pins the backend at the first attempt, so that a resumed run computes as it began. @throws LostClaimError */
  setBackend(claim: Claim, backend: string): Promise<void>;
  /** Records a resume point and, with `publish`, a checkpoint. @throws LostClaimError */
  save(
    claim: Claim,
    state: TrainingState,
    blobs: readonly NewBlob[],
    publish: NewCheckpoint | null,
  ): Promise<CheckpointRow | null>;
  /** Keeps a piece of work done, for a later attempt to go on from. @throws LostClaimError */
  keepPart(claim: Claim, data: JsonObject): Promise<void>;
  /** @returns the pieces that attempts at the job have kept, in order. */
  parts(id: string): Promise<readonly JsonObject[]>;
  /** @throws LostClaimError */
  succeed(claim: Claim, outcome: JobOutcome): Promise<JobRow>;
  /** Ends the job. @throws LostClaimError */
  fail(claim: Claim, error: ErrorRecord): Promise<JobRow>;
  /**
   * After a failure that a person can mend, where the work done is too dear to lose: pauses the job at its resume
   * point, with the error told; ends it where it has none. @throws LostClaimError
   */
  hold(claim: Claim, error: ErrorRecord): Promise<JobRow>;
  /**
   * After a failure that may pass: queues the job again after `delayMs(failures)`, or ends it when it has
   * failed `maxAttempts` times in a row. @throws LostClaimError
   */
  retry(claim: Claim, error: ErrorRecord, delayMs: (failures: number) => number, enqueue: Enqueue): Promise<JobRow>;
  /** Gives the job back unfinished, without blame: the process is stopping. @throws LostClaimError */
  release(claim: Claim, enqueue: Enqueue): Promise<JobRow>;
  /** @throws LostClaimError */
  stop(claim: Claim, status: "paused" | "cancelled"): Promise<JobRow>;
  /** What was asked of the job, and whether the claim still holds. */
  control(claim: Claim): Promise<{ owned: boolean; control: JobRow["control"] }>;
  /** @throws conflict, not_found */
  cancel(id: string): Promise<JobRow>;
  /** @throws conflict, not_found */
  pause(id: string): Promise<JobRow>;
  /** @throws conflict, not_found */
  resume(id: string, enqueue: Enqueue): Promise<JobRow>;
  /**
   * For the process that alone runs jobs: every job marked running was interrupted and is queued again, and
   * every queued one gets a fresh entry. @returns ids of the interrupted ones
   */
  recover(enqueue: Enqueue): Promise<readonly string[]>;
  /** Running jobs whose workers are lost. */
  lost(): Promise<readonly (QueuedJob & Pick<JobRow, "id">)[]>;
  /** Queues those of them that still are lost again. @returns their ids */
  giveBack(jobs: readonly Pick<JobRow, "id">[], enqueue: Enqueue): Promise<readonly string[]>;
  /** Gives queued jobs of a version without selectors their entries. */
  adopt(enqueue: Enqueue): Promise<void>;
  /** Jobs that may be queued again: what `recover` and `adopt` will enqueue. */
  unfinished(): Promise<readonly QueuedJob[]>;
}
