/**
 * Takes entries from the queue and runs their jobs, a few at a time per lane, until it is closed. It holds
 * what it runs by touching the entries; a runner that dies lets go of them by falling silent.
 */
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../log.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import { newId } from "../store/ids.ts";
import type { WorkerSelf } from "../store/workers.ts";
import { startAttempt, type Attempt, type AttemptTools } from "./attempt.ts";
import { lanes, maxHoldMs, type Entry, type EntryQueue, type Lane } from "./entries.ts";

export interface Runner {
  readonly id: string;
  /** Stops taking jobs, stops those that run at a resume point, and gives them back to the queue. */
  close(): Promise<void>;
}

export interface RunnerOptions extends Omit<AttemptTools, "enqueue"> {
  readonly entries: EntryQueue;
  /** True where this process alone runs jobs: then it recovers at once what an earlier one left. */
  readonly embedded: boolean;
  /** What can compute here, for `/v1/workers`. */
  readonly backends: JsonObject;
}

const pollMs = 400;
const pauseAfterErrorMs = 1_000;
const heartbeatMs = 3_000;
/** A job is given back before pg-boss would take it away. */
const longestRunMs = maxHoldMs * 0.95;

interface Held {
  /** The latest delivery. */
  entry: Entry;
  readonly attempt: Attempt;
  readonly since: number;
}

export async function startRunner(options: RunnerOptions): Promise<Runner> {
  const { store, entries, embedded, backends } = options;
  const id = newId("worker");
  const log = options.log.child({ worker: id });
  const self: WorkerSelf = { id, hostname: hostname(), pid: process.pid, backends, embedded, startedAt: new Date() };
  if (embedded) await store.workers.clear();
  await store.workers.heartbeat(self, null);
  if (embedded) {
    await entries.clear();
    const interrupted = await store.work.recover(entries.enqueue);
    if (interrupted.length > 0) log.info({ jobs: interrupted }, "interrupted jobs queued again");
  }
  const held = new Set<Held>();
  const closing = new AbortController();
  const tools: AttemptTools = { ...options, log, enqueue: entries.enqueue };
  const loops = lanes.map((lane) => runLane(lane, id, { options, tools, held, log, closing: closing.signal }));
  const beats = heartbeatLoop(self, { options, held, log, closing: closing.signal });
  return {
    id,
    async close() {
      closing.abort();
      await Promise.all(loops);
      for (const { attempt } of held) attempt.stop("shutdown");
      await Promise.all([...held].map(({ attempt }) => attempt.ended));
      await beats;
      await store.workers.unregister(id).catch((error: unknown) => log.warn({ err: error }, "cannot sign off"));
    },
  };
}

interface Loop {
  readonly options: RunnerOptions;
  readonly held: Set<Held>;
  readonly log: Log;
  readonly closing: AbortSignal;
}

async function runLane(lane: Lane, worker: string, loop: Loop & { readonly tools: AttemptTools }): Promise<void> {
  const { entries, settings, store } = loop.options;
  const limit = lane === "compute" ? settings.computeConcurrency : settings.prepareConcurrency;
  let wake: () => void = () => undefined;
  let woken = false;
  const signalWork = (): void => {
    woken = true;
    wake();
  };
  const unsubscribe = entries.onAdded(lane, signalWork);
  const pause = async (ms: number): Promise<void> => {
    if (!woken) {
      const awake = new AbortController();
      wake = () => awake.abort();
      await sleep(ms, undefined, { signal: AbortSignal.any([awake.signal, loop.closing]) }).catch(() => undefined);
    }
    woken = false;
  };
  let running = 0;
  while (!loop.closing.aborted) {
    if (running >= limit) {
      await pause(pollMs);
      continue;
    }
    try {
      const entry = await entries.take(lane);
      if (!entry) {
        await pause(pollMs);
        continue;
      }
      const ours = [...loop.held].find((one) => one.entry.id === entry.id);
      if (ours) {
        ours.entry = entry; // this process was silent for too long (a machine asleep) and yet lives: it goes on
        continue;
      }
      const job = await store.work.claim(entry.job, entry.id, worker);
      if (!job) {
        await entries.complete(entry);
        continue;
      }
      const held: Held = { entry, attempt: startAttempt(job, loop.tools), since: Date.now() };
      loop.held.add(held);
      running++;
      void held.attempt.ended.then(async (settled) => {
        const complete = settled ? entries.complete(held.entry) : Promise.resolve();
        await complete.catch((error: unknown) => loop.log.warn({ err: error }, "entry not completed"));
        loop.held.delete(held);
        running--;
        signalWork();
      });
    } catch (error) {
      loop.log.warn({ err: error }, "cannot take work");
      await sleep(pauseAfterErrorMs, undefined, { signal: loop.closing }).catch(() => undefined);
    }
  }
  unsubscribe();
}

/** Holds entries and shows that this worker lives, until the runner has closed and nothing is held. */
async function heartbeatLoop(self: WorkerSelf, { options, held, log, closing }: Loop): Promise<void> {
  for (let last = 0; !closing.aborted || held.size > 0;) {
    await sleep(closing.aborted ? 50 : 250, undefined, { signal: closing.aborted ? undefined : closing }).catch(
      () => undefined,
    );
    if (Date.now() - last < heartbeatMs) continue;
    last = Date.now();
    try {
      for (const one of [...held]) {
        await options.entries.touch(one.entry);
        if (Date.now() - one.since > longestRunMs) one.attempt.stop("shutdown");
      }
      const [first] = held;
      await options.store.workers.heartbeat(self, first?.entry.job ?? null);
    } catch (error) {
      log.warn({ err: error }, "heartbeat failed");
    }
  }
}
