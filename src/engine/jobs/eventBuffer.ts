/**
 * Collects events of a running job and writes them a few times a second, in order, in one transaction each.
 * Of several progress events in one batch only the last is kept: it is where the work stands. Whoever adds
 * waits while too much is unwritten, so a fast producer cannot fill the memory.
 */
import type { JsonObject } from "../../ops/manifest.ts";
import type { WorkEvent } from "../../ops/events.ts";
import { pointToJson, progressToJson } from "../store/curve.ts";
import type { NewEvent } from "../store/jobTypes.ts";
import type { JobProgress } from "../store/types.ts";

export interface EventBuffer {
  add(event: WorkEvent): Promise<void>;
  /** Writes everything added so far. @throws what the writer threw */
  flush(): Promise<void>;
  close(): void;
}

export type EventWriter = (events: readonly NewEvent[], progress: JobProgress | null) => Promise<void>;

const flushEveryMs = 250;
const maxUnwritten = 2_000;

/** @param onError told once when writing fails; from then on nothing is written and `flush` throws */
export function createEventBuffer(write: EventWriter, onError: (error: unknown) => void): EventBuffer {
  let events: NewEvent[] = [];
  let progress: JobProgress | null = null;
  let writing: Promise<void> = Promise.resolve();
  let failure: { error: unknown } | null = null;
  let timer: NodeJS.Timeout | null = null;

  const writeBatch = async (): Promise<void> => {
    if (failure) throw failure.error;
    const batch =
      progress === null ? events : [...events, { type: "progress" as const, data: progressToJson(progress) }];
    const latest = progress;
    events = [];
    progress = null;
    if (batch.length === 0) return;
    try {
      await write(batch, latest);
    } catch (error) {
      failure = { error };
      onError(error);
      throw error;
    }
  };
  const flush = (): Promise<void> => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    const next = writing.then(writeBatch, writeBatch);
    writing = next.catch(() => undefined);
    return next;
  };
  return {
    async add(event) {
      if (event.type === "progress") {
        const { type: _type, ...rest } = event;
        progress = rest;
      }
      if (event.type === "log") events.push({ type: "log", data: logData(event) });
      if (event.type === "metrics") events.push({ type: "metrics", data: pointToJson(event.point) });
      timer ??= setTimeout(() => void flush().catch(() => undefined), flushEveryMs);
      if (events.length >= maxUnwritten) await flush();
    },
    flush,
    close() {
      if (timer !== null) clearTimeout(timer);
      timer = null;
    },
  };
}

function logData(event: WorkEvent & { type: "log" }): JsonObject {
  const { level, message, data } = event;
  return data === undefined ? { level, message } : { level, message, data };
}
