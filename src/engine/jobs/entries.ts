/**
 * The queue's entries: small notes "run job X" that pg-boss delivers at least once, in the order they came, to one
 * process at a time. There is one queue for each selector (selector.ts), made when a job first needs it. What a job
 * is and how it stands is in the store; an entry only makes somebody look. An entry whose holder stops touching it
 * (kill -9, a lost machine) is delivered again after a heartbeat. LISTEN/NOTIFY is not used: polling is simple, and
 * the process that adds an entry wakes its own runner at once.
 */
import { fromDrizzle, fromPglite, PgBoss, type ConstructorOptions } from "pg-boss";
import { CodedError } from "../../ops/errors.ts";
import type { Log } from "../log.ts";
import type { QueueConnection } from "../store/client.ts";
import type { Enqueue, QueuedJob } from "../store/jobTypes.ts";
import { formatSelector, selectorOf, type Lane } from "./selector.ts";

export interface Entry {
  readonly id: string;
  /** The queue it came from. */
  readonly selector: string;
  /** The job that the entry is about. */
  readonly job: string;
  /** Which delivery of the entry this is; touching and completing hold for this one only. */
  readonly retryCount: number;
}

export interface EntryQueue {
  /** Only for jobs whose queue was opened: a transaction is no place to make one. */
  readonly enqueue: Enqueue;
  /** Makes the queue of such a job, where there is none. */
  open(job: QueuedJob): Promise<void>;
  /** The next entry of the selector's queue, held for a heartbeat from now on; null when there is none. */
  take(selector: string): Promise<Entry | null>;
  /** Holds the entry for another heartbeat. */
  touch(entry: Entry): Promise<void>;
  complete(entry: Entry): Promise<void>;
  /** Removes every entry: for the one process that owns the queue, before it writes them anew. */
  clear(): Promise<void>;
  /** Calls back when this process adds an entry to the lane. @returns how to stop that */
  onAdded(lane: Lane, wake: () => void): () => void;
  close(): Promise<void>;
}

/** pg-boss's shortest; a dead holder is noticed after it and one supervision. */
const heartbeatSeconds = 10;
const superviseSeconds = 2;
/** pg-boss's longest: a job that runs longer gives itself back before (runner.ts). */
export const maxHoldMs = 24 * 3_600_000;
const retentionSeconds = 365 * 86_400;
const deleteAfterSeconds = 3_600;
/** How often an entry may be delivered again; the store counts failures and ends the job long before. */
const maxDeliveries = 10_000;
const stopTimeoutMs = 5_000;

const queueName = (selector: string): string => `jobs.${selector}`;

/** Starts pg-boss in a schema of its own (`pgboss`) beside the store's tables. @throws store_unavailable */
export async function openEntryQueue(connection: QueueConnection, log: Log): Promise<EntryQueue> {
  const boss = new PgBoss(bossOptions(connection));
  boss.on("error", (error) => log.warn({ err: error }, "queue"));
  try {
    await boss.start();
  } catch (error) {
    await boss.stop({ graceful: false }).catch(() => undefined);
    throw new CodedError("store_unavailable", "the job queue does not start on this database", { cause: error });
  }
  return entryQueue(boss);
}

function bossOptions(connection: QueueConnection): ConstructorOptions {
  const common = { schema: "pgboss", schedule: false, reindex: false, monitorVacuum: false } as const;
  if (connection.kind === "pglite") return { ...common, db: fromPglite(connection.pglite), backend: "pglite" };
  const supervision = { superviseIntervalSeconds: superviseSeconds, monitorIntervalSeconds: superviseSeconds };
  return { ...common, ...supervision, connectionString: connection.connectionString, max: 4 };
}

function entryQueue(boss: PgBoss): EntryQueue {
  const wakers: Record<Lane, Set<() => void>> = { compute: new Set(), prepare: new Set() };
  const opened = new Set<string>();
  const attempt = ({ id, retryCount }: Entry) => ({ id, retryCount });
  return {
    async enqueue(handle, job, delayMs) {
      const wanted = selectorOf(job);
      const selector = formatSelector(wanted);
      const startAfter = delayMs > 0 ? { startAfter: new Date(Date.now() + delayMs) } : {};
      const db = fromDrizzle(handle.tx, handle.sql);
      const entry = await boss.send(queueName(selector), { job: job.id }, { db, ...startAfter });
      if (entry === null) throw new CodedError("store_unavailable", `the queue took no entry for ${job.id}`);
      // the transaction is still open; a moment later it has most likely been committed
      setTimeout(() => wakers[wanted.lane].forEach((wake) => wake()), Math.max(0, delayMs) + 1).unref();
      return { entry, selector };
    },
    async open(job) {
      const name = queueName(formatSelector(selectorOf(job)));
      if (opened.has(name)) return;
      const retries = { retryLimit: maxDeliveries, retryDelay: 0, retryBackoff: false };
      const lifetimes = { expireInSeconds: maxHoldMs / 1000, heartbeatSeconds, retentionSeconds, deleteAfterSeconds };
      await boss.createQueue(name, { ...retries, ...lifetimes });
      opened.add(name);
    },
    async take(selector) {
      const [entry] = await boss.fetch<{ job: string }>(queueName(selector), { includeMetadata: true });
      return entry ? { id: entry.id, selector, job: entry.data.job, retryCount: entry.retryCount } : null;
    },
    async touch(entry) {
      await boss.touch(queueName(entry.selector), attempt(entry));
    },
    async complete(entry) {
      await boss.complete(queueName(entry.selector), attempt(entry));
    },
    async clear() {
      for (const { name } of await boss.getQueues()) if (name.startsWith("jobs")) await boss.deleteAllJobs(name);
    },
    onAdded(lane, wake) {
      wakers[lane].add(wake);
      return () => wakers[lane].delete(wake);
    },
    close: () => boss.stop({ graceful: true, timeout: stopTimeoutMs }),
  };
}
