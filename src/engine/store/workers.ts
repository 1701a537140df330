/** Processes that run jobs, as they report themselves. A worker that fell silent is forgotten after a while. */
import { desc, eq, lt } from "drizzle-orm";
import type { Database } from "./client.ts";
import { workers } from "./schema.ts";
import type { WorkerRow, WorkerStore } from "./types.ts";

/** A worker silent for this long is gone; it reports every few seconds. */
const silenceMs = 60_000;
const maxWorkersListed = 1_000;

/** What a process says of itself. */
export interface WorkerSelf extends Pick<WorkerRow, "id" | "hostname" | "pid" | "backends" | "startedAt"> {
  readonly embedded: boolean;
}

export interface WorkerWriter extends WorkerStore {
  /** Says that the worker lives, and what it runs; forgets those that fell silent. */
  heartbeat(self: WorkerSelf, currentJob: string | null): Promise<void>;
  unregister(id: string): Promise<void>;
  /** For the one process that owns the database: whoever was there before is gone. */
  clear(): Promise<void>;
}

export function createWorkerStore(db: Database): WorkerWriter {
  return {
    async heartbeat(self, currentJob) {
      const row = { ...self, currentJob, heartbeatAt: new Date() };
      await db.insert(workers).values(row).onConflictDoUpdate({ target: workers.id, set: row });
      await db.delete(workers).where(lt(workers.heartbeatAt, new Date(Date.now() - silenceMs)));
    },
    async clear() {
      await db.delete(workers);
    },
    async unregister(id) {
      await db.delete(workers).where(eq(workers.id, id));
    },
    async list() {
      const rows = await db.select().from(workers).orderBy(desc(workers.startedAt)).limit(maxWorkersListed);
      const alive = rows.filter((row) => row.heartbeatAt.getTime() > Date.now() - silenceMs);
      return alive.map(({ embedded: _embedded, ...row }): WorkerRow => row);
    },
  };
}
