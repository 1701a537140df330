/**
 * Puts jobs of lost workers back into their queues, so that they show as what they are, waiting, also where no
 * living worker can do them. A worker that can notices sooner, by the queue's own heartbeat (entries.ts).
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../log.ts";
import type { EngineStore } from "../store/store.ts";
import type { EntryQueue } from "./entries.ts";

export interface LostJobTools {
  readonly store: EngineStore;
  readonly entries: EntryQueue;
  readonly log: Log;
  /** How often it looks. */
  readonly everyMs: number;
}

/** Looks now and then until it is closed. */
export function watchLost({ store, entries, log, everyMs }: LostJobTools): { close(): Promise<void> } {
  const closing = new AbortController();
  const loop = async (): Promise<void> => {
    for (;;) {
      await sleep(everyMs, undefined, { signal: closing.signal }).catch(() => undefined);
      if (closing.signal.aborted) return;
      try {
        const lost = await store.work.lost();
        for (const job of lost) await entries.open(job);
        const queued = lost.length === 0 ? [] : await store.work.giveBack(lost, entries.enqueue);
        if (queued.length > 0) log.info({ jobs: queued }, "jobs of lost workers queued again");
      } catch (error) {
        if (!closing.signal.aborted) log.warn({ err: error }, "cannot look for lost jobs");
      }
    }
  };
  const running = loop();
  return {
    close() {
      closing.abort();
      return running;
    },
  };
}
