/**
 * Processes that run jobs, as they report themselves every few seconds. One that fell silent counts as lost, stays
 * visible for an hour, and is then forgotten. Silence is judged by the database's clock, since workers have their own.
 */
import { desc, eq, lt, sql } from "./drizzle.ts";
import type { Database } from "./client.ts";
import { workers } from "./schema.ts";
import type { WorkerRow, WorkerStore } from "./workerTypes.ts";

const forgetAfterSeconds = 3_600;
const maxWorkersListed = 1_000;

/** What a process says of itself. */
export interface WorkerSelf extends Omit<WorkerRow, "running" | "heartbeatAt" | "state"> {
  readonly embedded: boolean;
}

export interface WorkerWriter extends WorkerStore {
  /** Says that the worker lives, and what it runs; forgets those that fell silent long ago. */
  heartbeat(self: WorkerSelf, running: WorkerRow["running"]): Promise<void>;
  unregister(id: string): Promise<void>;
  /** For the one process that owns the database: whoever was there before is gone. */
  clear(): Promise<void>;
}

/** @param lostAfterSeconds a worker silent for so long is lost: several of its heartbeats */
export function createWorkerStore(db: Database, lostAfterSeconds: number): WorkerWriter {
  const silentFor = (seconds: number) => lt(workers.heartbeatAt, sql`now() - make_interval(secs => ${seconds})`);
  return {
    async heartbeat({ backends, needs, places, ...self }, running) {
      const now = sql<Date>`now()`;
      const lists = { backends: [...backends], needs: [...needs], places: { ...places } };
      const jobs = Object.fromEntries(Object.entries(running).map(([lane, ids]) => [lane, [...ids]]));
      const row = { ...self, ...lists, running: jobs, heartbeatAt: now };
      await db.insert(workers).values(row).onConflictDoUpdate({ target: workers.id, set: row });
      await db.delete(workers).where(silentFor(forgetAfterSeconds));
    },
    async clear() {
      await db.delete(workers);
    },
    async unregister(id) {
      await db.delete(workers).where(eq(workers.id, id));
    },
    async list() {
      const rows = await db
        .select({ row: workers, lost: sql<boolean>`${silentFor(lostAfterSeconds)}` })
        .from(workers)
        .orderBy(desc(workers.startedAt))
        .limit(maxWorkersListed);
      return rows.map(({ row: { embedded: _embedded, ...row }, lost }): WorkerRow => {
        return { ...row, state: lost ? "lost" : "alive" };
      });
    },
  };
}
