/** Processes that run jobs, as they report themselves. A worker that fell silent is forgotten after a while. */
import { desc, eq, lt } from "drizzle-orm";
import type { JsonObject } from "../../ops/manifest.ts";
import type { Database } from "./client.ts";
import { workers } from "./schema.ts";
import type { WorkerRow, WorkerStore } from "./types.ts";

/** A worker silent for this long is gone; it reports every few seconds. */
const silenceMs = 60_000;
const maxWorkersListed = 1_000;

export interface WorkerWriter extends WorkerStore {
  register(worker: {
    id: string;
    hostname: string;
    pid: number;
    backends: JsonObject;
    embedded: boolean;
  }): Promise<void>;
  heartbeat(id: string, currentJob: string | null): Promise<void>;
  unregister(id: string): Promise<void>;
}

export function createWorkerStore(db: Database): WorkerWriter {
  return {
    async register(worker) {
      const now = new Date();
      const row = { ...worker, currentJob: null, startedAt: now, heartbeatAt: now };
      if (worker.embedded) await db.delete(workers); // it alone owns the database
      await db.insert(workers).values(row).onConflictDoUpdate({ target: workers.id, set: row });
    },
    async heartbeat(id, currentJob) {
      await db.update(workers).set({ currentJob, heartbeatAt: new Date() }).where(eq(workers.id, id));
      await db.delete(workers).where(lt(workers.heartbeatAt, new Date(Date.now() - silenceMs)));
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
