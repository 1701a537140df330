/**
 * Gauges of the whole service, read from the database whenever metrics are asked for: jobs that wait, by lane and
 * backend, and workers by state. While the database is away they are left out.
 */
import { Gauge, type Registry } from "prom-client";
import type { Log } from "../log.ts";
import type { EngineStore } from "../store/store.ts";
import { parseSelector } from "./selector.ts";

export function registerQueueMetrics(registry: Registry, store: EngineStore, log: Log): void {
  const registers = [registry];
  const refresh = async (gauge: Gauge<string>, read: () => Promise<void>): Promise<void> => {
    gauge.reset();
    await read().catch((error: unknown) => log.warn({ err: error }, "no metrics of the queue"));
  };
  const queued: Gauge<"lane" | "backend"> = new Gauge({
    ...{ name: "cambium_jobs_queued", help: "Jobs that wait, by what they wait for", registers },
    labelNames: ["lane", "backend"],
    collect: () =>
      refresh(queued, async () => {
        for (const { selector, queued: count } of await store.work.waiting()) {
          const { lane, backend } = parseSelector(selector) ?? { lane: "unknown", backend: null };
          queued.inc({ lane, backend: backend ?? "any" }, count);
        }
      }),
  });
  const workers: Gauge<"state"> = new Gauge({
    ...{ name: "cambium_workers", help: "Processes that take jobs", registers },
    labelNames: ["state"],
    collect: () =>
      refresh(workers, async () => {
        const rows = await store.workers.list();
        for (const state of ["alive", "lost"] as const) {
          workers.set({ state }, rows.filter((row) => row.state === state).length);
        }
      }),
  });
}
