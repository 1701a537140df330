/**
 * The composition root: builds everything that a process needs, once, in order, and takes it apart in the
 * reverse order. The server on PGlite runs jobs itself; on PostgreSQL workers do.
 */
import { accessSync, constants, mkdirSync } from "node:fs";
import { CodedError } from "../ops/errors.ts";
import { blobPath } from "./checkpoint/blobs.ts";
import { sharedBlobs } from "./jobs/blobCache.ts";
import { openEntryQueue } from "./jobs/entries.ts";
import { openFarBlobs } from "./jobs/farBlobs.ts";
import type { Handlers } from "./jobs/handler.ts";
import { handlers as allHandlers } from "./jobs/handlers/index.ts";
import { createJobQueue } from "./jobs/queue.ts";
import { registerQueueMetrics } from "./jobs/queueMetrics.ts";
import { watchLost } from "./jobs/lostJobs.ts";
import { heartbeatsUntilLost, startRunner, type Runner } from "./jobs/runner.ts";
import { startSweeper } from "./jobs/sweeper.ts";
import type { JobQueue } from "./jobs/types.ts";
import { createLog, type Log } from "./log.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import type { Settings } from "./settings.ts";
import { openDatabase } from "./store/client.ts";
import { createStore, type EngineStore } from "./store/store.ts";
import type { WorkerBackend } from "./store/workerTypes.ts";

export interface Services {
  readonly settings: Settings;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly store: EngineStore;
  readonly queue: JobQueue;
  /** Null in a server on PostgreSQL, whose jobs run in workers. */
  readonly runner: Runner | null;
  readonly blobDir: string;
  /** Gives running jobs back at a resume point, then closes everything. Safe to call twice. */
  close(): Promise<void>;
}

export interface ServicesOptions {
  readonly role: "server" | "worker";
  /** For tests. */
  readonly log?: Log;
  readonly handlers?: Handlers;
}

/** @throws data_dir_locked, store_unavailable, invalid_request for a worker without a shared database */
export async function createServices(settings: Settings, options: ServicesOptions): Promise<Services> {
  const { role } = options;
  if (role === "worker" && settings.databaseUrl === null) {
    const message =
      "a worker needs DATABASE_URL: the embedded database belongs to one process, whose server runs its jobs";
    throw new CodedError("invalid_request", message);
  }
  const log = options.log ?? createLog(settings.logLevel, { role });
  const metrics = createMetrics();
  for (const folder of [settings.dataDir, settings.blobDir, settings.uploadsDir]) makeFolder(folder);
  // the default import root is ours to make; others must exist
  const imports = settings.importRoots.filter((root) => root.startsWith(settings.dataDir));
  for (const folder of imports) makeFolder(folder);
  const stack = new AsyncDisposableStack();
  try {
    const client = await openDatabase({
      databaseUrl: settings.databaseUrl,
      dataDir: settings.dataDir,
      maxConnections: settings.databaseConnections,
      onError: (error) => log.warn({ err: error }, "database connection"),
    });
    stack.defer(() => client.close());
    const far = role === "worker" && settings.apiUrl !== null ? await openFarBlobs(settings, settings.apiUrl) : null;
    if (far) stack.defer(() => far.close());
    const files = far?.files ?? ((digest: string) => blobPath(settings.blobDir, digest));
    const store = createStore(client, files, settings.workerLostMs / 1000);
    const entries = await openEntryQueue(client.queueConnection, log);
    stack.defer(() => entries.close());
    const embedded = client.kind === "pglite";
    const computes = role === "worker" || embedded;
    const backends = computes ? await availableBackends(settings, role) : null;
    const queue = createJobQueue({ store, entries, settings, backends });
    registerQueueMetrics(metrics.registry, store, log);
    let runner: Runner | null = null;
    if (backends !== null) {
      const handlers = options.handlers ?? allHandlers;
      const blobs = far?.blobs ?? sharedBlobs;
      const needs = far?.needs ?? ["files", "benchmarks"];
      const common = { store, entries, settings, log, metrics };
      runner = await startRunner({ ...common, handlers, embedded, backends, blobs, needs });
      const started = runner;
      stack.defer(() => started.close());
    }
    // whoever has the blob directory keeps it clean
    const sweeper = far ? null : startSweeper({ store, settings, log, metrics });
    if (sweeper) stack.defer(() => sweeper.close());
    if (!embedded) {
      const watch = watchLost({ store, entries, log, everyMs: settings.workerLostMs / heartbeatsUntilLost });
      stack.defer(() => watch.close());
    }
    const everything = stack.move();
    let closed: Promise<void> | null = null;
    const close = (): Promise<void> => (closed ??= everything.disposeAsync());
    return { settings, log, metrics, store, queue, runner, blobDir: settings.blobDir, close };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** @throws invalid_request where the folder cannot be made or written to: then nothing here can work */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new CodedError("invalid_request", `DATA_DIR: ${folder} is no folder that can be written to`, { cause });
  }
}

/** @throws backend_unavailable for a worker that could compute nothing */
async function availableBackends(settings: Settings, role: ServicesOptions["role"]): Promise<WorkerBackend[]> {
  const { probeBackends } = await import("./jobs/backendChoice.ts");
  const backends = await probeBackends(settings);
  if (role === "server" || backends.some(({ available }) => available)) return backends;
  const why = backends.map(({ name, reason }) => `${name}: ${reason ?? "no reason given"}`).join("; ");
  throw new CodedError("backend_unavailable", `this worker could compute nothing: ${why || "BACKENDS names none"}`);
}
