/**
 * One attempt at one job: runs the handler, stores what it reports, obeys what users ask, and ends the job in
 * the way that its outcome calls for. Whatever happens, the job is left in a state from which it goes on or
 * has ended, unless the claim was lost: then somebody else has it, and this attempt writes nothing more.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CodedError, toErrorRecord, type ErrorCode } from "../../ops/errors.ts";
import type { Log } from "../log.ts";
import type { Metrics } from "../metrics.ts";
import { computeEnvironment, type Settings } from "../settings.ts";
import { LostClaimError, type Claim } from "../store/jobTypes.ts";
import type { EngineStore } from "../store/store.ts";
import type { JobRow } from "../store/types.ts";
import type { WorkerBackend } from "../store/workerTypes.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { BlobTraffic } from "./blobCache.ts";
import { runInChild } from "./compute.ts";
import { withBlobs } from "./computeBlobs.ts";
import type { ComputeRequest } from "./computeProtocol.ts";
import type { EntryQueue } from "./entries.ts";
import { createEventBuffer } from "./eventBuffer.ts";
import type { Handler, HandlerContext, HandlerOutcome, Handlers } from "./handler.ts";
import type { JobKind } from "./requests.ts";

export interface AttemptTools {
  readonly store: EngineStore;
  readonly settings: Settings;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly handlers: Handlers;
  readonly entries: EntryQueue;
  readonly blobs: BlobTraffic;
  /** What can compute here. */
  readonly backends: readonly WorkerBackend[];
}

/** Why an attempt stops before its work is done. */
export type StopReason = "cancel" | "pause" | "shutdown" | "lost";

/** Failures that may pass; every other failure would come again. */
const transient: ReadonlySet<ErrorCode> = new Set([
  "compute_crashed",
  "timeout",
  "store_unavailable",
  "hub_unavailable",
  "unavailable",
]);

const controlPollMs = 250;
const maxRetryDelayMs = 300_000;
/** How long the last write of an attempt is tried again while the database is away. */
const lastWriteTimeoutMs = 60_000;

export interface Attempt {
  /** Asks the attempt to stop; the first reason counts. */
  stop(reason: StopReason): void;
  /**
   * Resolves, never rejects, when nothing of the attempt is left: to whether the store knows how it ended. If
   * not, the queue must deliver the entry again.
   */
  readonly ended: Promise<boolean>;
}

export function startAttempt(job: JobRow, tools: AttemptTools): Attempt {
  const abort = new AbortController();
  let reason: StopReason | null = null;
  const stop = (why: StopReason): void => {
    reason ??= why;
    abort.abort(new CodedError("cancelled", `the job is stopping: ${why}`));
  };
  const log = tools.log.child({ job: job.id, kind: job.kind, attempt: job.attempts });
  const attempt = { job, abort, stop, reason: () => reason, log, tools };
  return { stop, ended: run(attempt) };
}

interface Running {
  readonly job: JobRow;
  readonly abort: AbortController;
  readonly stop: (reason: StopReason) => void;
  readonly reason: () => StopReason | null;
  readonly log: Log;
  readonly tools: AttemptTools;
}

async function run(running: Running): Promise<boolean> {
  const { job, log, tools } = running;
  const { metrics } = tools;
  const startedMs = Date.now();
  metrics.jobsStarted.inc({ kind: job.kind });
  metrics.jobsRunning.inc({ kind: job.kind });
  log.info("job started");
  try {
    const row = await attemptJob(running);
    metrics.jobsEnded.inc({ kind: job.kind, status: row.status });
    log.info({ status: row.status, error: row.error ?? undefined, duration_ms: Date.now() - startedMs }, "job ended");
    return true;
  } catch (error) {
    // the queue delivers the entry again when this process is silent about it
    log.error({ err: error }, error instanceof LostClaimError ? "job taken over" : "job abandoned");
    return false;
  } finally {
    metrics.jobsRunning.dec({ kind: job.kind });
    metrics.jobDurationSeconds.observe({ kind: job.kind }, (Date.now() - startedMs) / 1000);
  }
}

async function attemptJob(running: Running): Promise<JobRow> {
  const { job, tools, log, stop } = running;
  const claim: Claim = { id: job.id, attempt: job.attempts };
  const buffer = createEventBuffer(
    (events, progress) => tools.store.work.append(claim, events, progress),
    (error) => {
      log.warn({ err: error }, "events cannot be written");
      stop("lost");
    },
  );
  const finished = new AbortController();
  const controlled = followControl(running, claim, finished.signal);
  let outcome: HandlerOutcome | { failed: unknown };
  try {
    const handler = tools.handlers[job.kind as JobKind] as Handler<JobKind> | undefined;
    if (!handler) throw new CodedError("internal", `no handler for jobs of kind ${job.kind}`);
    outcome = await handler(job.request as never, handlerContext(running, claim, buffer));
    await buffer.flush();
  } catch (error) {
    outcome = { failed: error };
    await buffer.flush().catch(() => undefined);
  } finally {
    buffer.close();
    finished.abort();
    await controlled;
  }
  if (running.reason() === "lost") throw new LostClaimError(claim);
  return persist(log, () => conclude(running, claim, outcome));
}

/** Writes how the attempt ended. */
async function conclude(
  running: Running,
  claim: Claim,
  outcome: HandlerOutcome | { failed: unknown },
): Promise<JobRow> {
  const { work } = running.tools.store;
  const reason = running.reason();
  if (outcome !== "stopped" && !("failed" in outcome)) {
    const row = await work.succeed(claim, outcome);
    await outcome.afterwards?.().catch((error: unknown) => running.log.warn({ err: error }, "left something behind"));
    return row;
  }
  if (reason === "cancel") return work.stop(claim, "cancelled");
  if (reason === "pause") return work.stop(claim, "paused");
  if (reason !== null) return work.release(claim, running.tools.entries.enqueue);
  const error = outcome === "stopped" ? new CodedError("internal", "the work stopped unasked") : outcome.failed;
  const record = toErrorRecord(error);
  if (!(error instanceof CodedError) || error.code === "internal") running.log.error({ err: error }, "job failed");
  else running.log.warn({ err: error }, "job failed");
  // A disk that is full is for a person to mend; a training of days must not be lost to it.
  if (record.code === "storage_full") return work.hold(claim, record);
  if (!transient.has(record.code)) return work.fail(claim, record);
  const { retryDelayMs } = running.tools.settings;
  const delayMs = (failures: number): number => Math.min(maxRetryDelayMs, retryDelayMs * 2 ** (failures - 1));
  return work.retry(claim, record, delayMs, running.tools.entries.enqueue);
}

function handlerContext(running: Running, claim: Claim, buffer: ReturnType<typeof createEventBuffer>): HandlerContext {
  const { job, log, abort, tools } = running;
  const { store, settings } = tools;
  return {
    ...{ job, store, settings, log, signal: abort.signal },
    report: (event) => buffer.add(event),
    async save(state, blobs, publish) {
      await buffer.flush();
      return store.work.save(claim, state, blobs, publish);
    },
    keepPart: (data) => store.work.keepPart(claim, data),
    backends: tools.backends,
    async setBackend(name) {
      await tools.entries.open({ ...job, backend: name });
      await store.work.setBackend(claim, name);
    },
    compute: (request) => computeIn(running, request),
  };
}

/** Does work in a compute process, on blobs that are at hand. */
function computeIn({ log, abort, tools }: Running, request: ComputeRequest): AsyncIterable<WorkEvent> {
  const { store, settings, metrics, blobs } = tools;
  const { computeMemoryBytes: memoryBytes, computeThreads: threads, computeSilenceMs: silenceMs } = settings;
  const { stopTimeoutMs } = settings;
  const limits = { memoryBytes, threads, silenceMs, stopTimeoutMs, environment: computeEnvironment() };
  return withBlobs(request, { blobs, store, signal: abort.signal, stopTimeoutMs }, () =>
    runInChild(request, {
      ...{ signal: abort.signal, limits },
      onStart: (pid) => log.debug({ compute_pid: pid, work: request.kind }, "compute process started"),
      onCrash: (cause, stderr) => {
        metrics.computeCrashes.inc({ cause });
        log.warn({ cause, stderr }, "compute process died");
      },
    }),
  );
}

/** Looks at what users ask of the job until the attempt has finished. */
async function followControl({ tools, log, stop }: Running, claim: Claim, finished: AbortSignal): Promise<void> {
  while (!finished.aborted) {
    await sleep(controlPollMs, undefined, { signal: finished }).catch(() => undefined);
    if (finished.aborted) return;
    try {
      const { owned, control } = await tools.store.work.control(claim);
      if (!owned) stop("lost");
      else if (control !== null) stop(control);
    } catch (error) {
      log.warn({ err: error }, "cannot read what is asked of the job"); // the next look may succeed
    }
  }
}

/** Repeats a write while the database is away. */
async function persist<T>(log: Log, write: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + lastWriteTimeoutMs;
  for (let delayMs = 250; ; delayMs = Math.min(5_000, delayMs * 2)) {
    try {
      return await write();
    } catch (error) {
      const away = error instanceof CodedError && error.code === "store_unavailable";
      if (!away || Date.now() + delayMs > deadline) throw error;
      log.warn({ err: error }, "the end of the job cannot be written yet");
      await sleep(delayMs);
    }
  }
}
