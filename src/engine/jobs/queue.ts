/**
 * The queue as the API sees it: a request is checked against the store, then the job's row and its queue
 * entry are written in one transaction. Names are resolved here, once: a job speaks of ids.
 */
import { CodedError } from "../../ops/errors.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { Settings } from "../settings.ts";
import type { NewJob } from "../store/jobTypes.ts";
import { checkRequest, type CheckContext, type CheckedRequest } from "./checks.ts";
import type { EntryQueue } from "./entries.ts";
import type { JobKind, JobRequests } from "./requests.ts";
import type { JobQueue } from "./types.ts";

export interface QueueTools extends CheckContext {
  readonly entries: EntryQueue;
}

export function createJobQueue({ entries, ...context }: QueueTools): JobQueue {
  const { store, settings } = context;
  return {
    async submit(kind, request) {
      const queued = await store.work.countQueued();
      if (queued >= settings.maxQueuedJobs) {
        const message = `${queued} jobs are queued; at most ${settings.maxQueuedJobs} may be`;
        throw new CodedError("unavailable", message);
      }
      const job = newJob(kind, await checkRequest(kind, request, context), settings);
      await entries.open(job);
      return store.work.insert(job, entries.enqueue);
    },
    cancel: (id) => store.work.cancel(id),
    pause: (id) => store.work.pause(id),
    resume: (id) => store.work.resume(id, entries.enqueue),
  };
}

function newJob<Kind extends JobKind>(kind: Kind, checked: CheckedRequest<Kind>, settings: Settings): NewJob {
  const request: JobRequests[Kind] = checked.request;
  const [checkpoint] = checked.checkpoints;
  return {
    kind,
    request: request as unknown as JsonObject,
    maxAttempts: settings.jobMaxAttempts,
    backend: null,
    needsBytes: checked.needsBytes ?? null,
    checkpoints: checked.checkpoints,
    datasets: checked.datasets,
    evaluation: kind === "evaluation" && checkpoint !== undefined ? { checkpoint } : null,
  };
}
