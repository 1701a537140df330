/**
 * What the HTTP layer is given: everything is built once by the composition root (engine/services.ts) and passed
 * here. Handlers know nothing else of the engine.
 */
import type { Logger } from "pino";
import type { Backend } from "../engine/backends/backend.ts";
import type { JobQueue } from "../engine/jobs/types.ts";
import type { Metrics } from "../engine/metrics.ts";
import type { ModelPool } from "../engine/serving/types.ts";
import type { Settings } from "../engine/settings.ts";
import type { Store } from "../engine/store/types.ts";
import type { Contract } from "./contract.ts";
import type { Auth } from "./middleware/auth.ts";
import type { UploadStore } from "./uploadStore.ts";

export interface ApiDeps {
  readonly settings: Settings;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly store: Store;
  readonly queue: JobQueue;
  readonly pool: ModelPool;
  /** The backends that may be used; a promise, since the registry is loaded only when asked for. */
  readonly backends: () => Promise<readonly ProbedBackend[]>;
  readonly uploads: UploadStore;
  /** Aborted when the server begins to stop: open streams and held answers end. */
  readonly closing: AbortSignal;
}

/** A backend with the probe that tells whether it works here. */
export type ProbedBackend = Pick<Backend, "name" | "description" | "preference"> & Pick<Backend, "probe">;

/** What the makers of handlers are given: the same, and what the app itself has built. */
export interface RouteDeps extends ApiDeps {
  readonly contract: Contract;
  readonly auth: Auth;
}
