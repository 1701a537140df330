/**
 * Takes entries from the queues whose jobs this worker can do (taking.ts) and runs the jobs, a few at a time per
 * lane, until it is closed. It holds what it runs by touching the entries; a runner that dies lets go of them by
 * falling silent.
 */
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../log.ts";
import { newId } from "../store/ids.ts";
import type { Claimant } from "../store/jobTypes.ts";
import type { WorkerSelf } from "../store/workers.ts";
import { startAttempt, type Attempt, type AttemptTools } from "./attempt.ts";
import { maxHoldMs, type Entry } from "./entries.ts";
import { canServe, lanes, selectorOf, type Lane } from "./selector.ts";
import { takeEntry } from "./taking.ts";

export interface Runner {
  readonly id: string;
  /** Stops taking jobs, stops those that run at a resume point, and gives them back to the queue. */
  close(): Promise<void>;
}

export interface RunnerOptions extends AttemptTools {
  /** True where this process alone runs jobs: then it recovers at once what an earlier one left. */
  readonly embedded: boolean;
  /** What it has at hand that some jobs need. */
  readonly needs: WorkerSelf["needs"];
}

/** How often a lane looks for work that other processes added. */
const pollMs = 400;
/** Where all is added in this process, which is told of it then; every look takes milliseconds of the database. */
const embeddedPollMs = 2_000;
const pauseAfterErrorMs = 1_000;
/** A worker says that it lives so many times in the time of silence after which it counts as lost. */
export const heartbeatsUntilLost = 5;
/** A job is given back before pg-boss would take it away. */
const longestRunMs = maxHoldMs * 0.95;

interface Held {
  /** The latest delivery. */
  entry: Entry;
  readonly lane: Lane;
  readonly attempt: Attempt;
  readonly since: number;
}

export async function startRunner(options: RunnerOptions): Promise<Runner> {
  const { store, entries, embedded } = options;
  const id = newId("worker");
  const log = options.log.child({ worker: id });
  const self = describeSelf(id, options);
  if (embedded) await store.workers.clear();
  await store.workers.heartbeat(self, runningOf(new Set()));
  for (const job of await store.work.unfinished()) await entries.open(job);
  if (embedded) {
    await entries.clear();
    const interrupted = await store.work.recover(entries.enqueue);
    if (interrupted.length > 0) log.info({ jobs: interrupted }, "interrupted jobs queued again");
  } else {
    await store.work.adopt(entries.enqueue);
  }
  const held = new Set<Held>();
  const closing = new AbortController();
  const tools: AttemptTools = { ...options, log };
  let beatNow: () => void = () => undefined;
  const changed = (): void => beatNow();
  const loop: Loop = { options, self, held, log, closing: closing.signal, changed };
  const loops = lanes.map((lane) => runLane(lane, { ...loop, tools }));
  const beats = heartbeatLoop(loop, (wake) => (beatNow = wake));
  return {
    id,
    async close() {
      closing.abort();
      beatNow();
      await Promise.all(loops);
      for (const { attempt } of held) attempt.stop("shutdown");
      await Promise.all([...held].map(({ attempt }) => attempt.ended));
      await beats;
      await store.workers.unregister(id).catch((error: unknown) => log.warn({ err: error }, "cannot sign off"));
    },
  };
}

function describeSelf(id: string, { settings, embedded, backends, needs }: RunnerOptions): WorkerSelf {
  const { computeConcurrency: compute, prepareConcurrency: prepare, computeMemoryBytes: memoryBytes } = settings;
  const places = { compute, prepare };
  return {
    id,
    hostname: hostname(),
    pid: process.pid,
    embedded,
    backends,
    memoryBytes,
    needs,
    places,
    startedAt: new Date(),
  };
}

function runningOf(held: ReadonlySet<Held>): Record<Lane, string[]> {
  const of = (lane: Lane) => [...held].filter((one) => one.lane === lane).map(({ entry }) => entry.job);
  return { compute: of("compute"), prepare: of("prepare") };
}

interface Loop {
  readonly options: RunnerOptions;
  readonly self: WorkerSelf;
  readonly held: Set<Held>;
  readonly log: Log;
  readonly closing: AbortSignal;
  /** Told whenever a job is taken or has ended: others look at what this worker has free. */
  readonly changed: () => void;
}

async function runLane(lane: Lane, loop: Loop & { readonly tools: AttemptTools }): Promise<void> {
  const { entries, store } = loop.options;
  const limit = loop.self.places[lane] ?? 1;
  const idleMs = loop.options.embedded ? embeddedPollMs : pollMs;
  const canDo: Claimant["canDo"] = (job) => canServe(selectorOf(job), loop.self);
  const claimant: Claimant = { worker: loop.self.id, canDo, enqueue: entries.enqueue };
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
      await pause(idleMs);
      continue;
    }
    try {
      const entry = await takeEntry(lane, loop.self, loop.options);
      if (!entry) {
        await pause(idleMs);
        continue;
      }
      const ours = [...loop.held].find((one) => one.entry.id === entry.id);
      if (ours) {
        ours.entry = entry; // this process was silent for too long (a machine asleep) and yet lives: it goes on
        continue;
      }
      const job = await store.work.claim(entry.job, entry.id, claimant);
      if (!job) {
        await entries.complete(entry);
        continue;
      }
      const held: Held = { entry, lane, attempt: startAttempt(job, loop.tools), since: Date.now() };
      loop.held.add(held);
      running++;
      loop.changed();
      void held.attempt.ended.then(async (settled) => {
        const complete = settled ? entries.complete(held.entry) : Promise.resolve();
        await complete.catch((error: unknown) => loop.log.warn({ err: error }, "entry not completed"));
        loop.held.delete(held);
        running--;
        loop.changed();
        signalWork();
      });
    } catch (error) {
      loop.log.warn({ err: error }, "cannot take work");
      await sleep(pauseAfterErrorMs, undefined, { signal: loop.closing }).catch(() => undefined);
    }
  }
  unsubscribe();
}

/** Holds entries and shows that this worker lives and what it runs, until it has closed and nothing is held. */
async function heartbeatLoop(
  { options, self, held, log, closing }: Loop,
  onWake: (wake: () => void) => void,
): Promise<void> {
  const everyMs = options.settings.workerLostMs / heartbeatsUntilLost;
  let awake = new AbortController();
  onWake(() => awake.abort());
  for (let last = 0; !closing.aborted || held.size > 0;) {
    const early = awake.signal.aborted;
    awake = early ? new AbortController() : awake;
    if (early || Date.now() - last >= everyMs) {
      last = Date.now();
      await beat({ options, self, held }).catch((error: unknown) => log.warn({ err: error }, "heartbeat failed"));
    }
    const pauseMs = closing.aborted ? 50 : 250;
    await sleep(pauseMs, undefined, { signal: awake.signal }).catch(() => undefined);
  }
}

async function beat({ options, self, held }: Pick<Loop, "options" | "self" | "held">): Promise<void> {
  await options.store.workers.heartbeat(self, runningOf(held));
  for (const one of [...held]) {
    await options.entries.touch(one.entry);
    if (Date.now() - one.since > longestRunMs) one.attempt.stop("shutdown");
  }
}
