/** What a job handler gets and gives: it resolves rows, has the work done, and returns what to write. */
import type { WorkEvent } from "../../ops/events.ts";
import type { TrainingState, NewBlob } from "../../ops/events.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { Log } from "../log.ts";
import type { Settings } from "../settings.ts";
import type { JobOutcome } from "../store/jobTypes.ts";
import type { EngineStore } from "../store/store.ts";
import type { CheckpointRow, JobRow, NewCheckpoint } from "../store/types.ts";
import type { WorkerBackend } from "../store/workerTypes.ts";
import type { ComputeRequest } from "./computeProtocol.ts";
import type { JobKind, JobRequests } from "./requests.ts";

export interface HandlerContext {
  /** As this attempt found it; `resume` and `backend` included. */
  readonly job: JobRow;
  readonly store: EngineStore;
  readonly settings: Settings;
  readonly log: Log;
  /** Aborted when the job is to stop, for whatever reason. */
  readonly signal: AbortSignal;
  /** Stores a log, progress or metrics event; waits while too many are not yet written. */
  report(event: WorkEvent): Promise<void>;
  /** Records a resume point, and with `publish` a checkpoint. */
  save(state: TrainingState, blobs: readonly NewBlob[], publish: NewCheckpoint | null): Promise<CheckpointRow | null>;
  /** Keeps a piece of work done for a later attempt. */
  keepPart(data: JsonObject): Promise<void>;
  /** What can compute here. */
  readonly backends: readonly WorkerBackend[];
  /** Pins the backend for later attempts. */
  setBackend(name: string): Promise<void>;
  /** Does work in a compute process. */
  compute(request: ComputeRequest): AsyncIterable<WorkEvent>;
}

/** "stopped": the work ended early because the signal asked it to. */
export type HandlerOutcome = JobOutcome | "stopped";

/** Must be idempotent: an attempt may be repeated, and nothing it wrote outside the store counts. */
export type Handler<Kind extends JobKind> = (
  request: JobRequests[Kind],
  context: HandlerContext,
) => Promise<HandlerOutcome>;

export type Handlers = { readonly [Kind in JobKind]: Handler<Kind> };
