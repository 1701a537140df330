/**
 * The pool of warm models. Each loaded checkpoint has a process of its own; requests wait in one bounded queue,
 * first come first served, until their model has a free place. When memory is short the model used longest ago,
 * and idle, makes room; a request whose model does not fit yet holds back those behind it, so that it cannot be
 * starved by a busy model. A process that dies takes only its own requests with it; the next request starts
 * another. Requests on one model run in one continuous batch (`infer/batcher.ts`): `maxActive` at most, and as many as
 * have room in its key/value caches.
 */
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { CodedError } from "../../ops/errors.ts";
import type { CheckpointManifest, ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { GenerateEvent, GenerateRequest } from "../infer/servedModel.ts";
import { listBackends } from "../backends/index.ts";
import { estimateFootprint, reservationOf } from "./footprint.ts";
import type { Footprint } from "./footprint.ts";
import { givenUp } from "./givenUp.ts";
import { Places } from "./places.ts";
import type { Place } from "./places.ts";
import type { PoolMetrics } from "./poolMetrics.ts";
import type { ModelPool } from "./types.ts";

export interface PoolLimits {
  /** Memory that all model processes together may be estimated to take. */
  readonly maxMemoryBytes: number;
  /** Model processes at once. */
  readonly maxModels: number;
  /** Requests generating at once on one model, in one batch. */
  readonly maxActive: number;
  /** Key/value caches of one model together; one request of full length always has room. */
  readonly maxCacheBytes: number;
  /** Whether caches keep what ended requests have computed, for prompts that begin alike. */
  readonly keepPrompts: boolean;
  /** What they keep keys and values as, on backends that have a choice. */
  readonly cacheDtype: CacheDtype;
  /** Requests waiting, over all models. */
  readonly maxQueued: number;
  /** A request that has waited this long is turned away. */
  readonly queueTimeoutMs: number;
  /** A model unused for this long is unloaded. */
  readonly idleTimeoutMs: number;
  readonly loadTimeoutMs: number;
  /** Silence of a process after which it is ended: longer than any single step of at most 256 tokens. */
  readonly stuckTimeoutMs: number;
}

export const defaultPoolLimits: PoolLimits = {
  maxMemoryBytes: 8 * 1024 ** 3,
  maxModels: 4,
  maxActive: 32,
  maxCacheBytes: 1024 ** 3,
  keepPrompts: true,
  cacheDtype: "F32",
  maxQueued: 256,
  queueTimeoutMs: 120_000,
  idleTimeoutMs: 600_000,
  loadTimeoutMs: 300_000,
  stuckTimeoutMs: 180_000,
};

export interface PoolOptions {
  /** Names of the backends that may serve, the best that works is chosen; null for all. */
  readonly backends: readonly string[] | null;
  readonly limits?: Partial<PoolLimits>;
  readonly metrics?: PoolMetrics;
  /** Told of processes that died or could not load; for the log. */
  readonly onFailure?: (checkpointId: string, error: Error) => void;
  /** Another ENTRY than `child.ts`; for tests. */
  readonly entry?: URL;
}

/** @returns an empty pool; nothing is started before the first request. */
export function createModelPool(options: PoolOptions): ModelPool {
  const limits = { ...defaultPoolLimits, ...options.limits };
  // Where one that does not is chosen, a GPU holds the weights, or nothing that does works here.
  const allowed = listBackends().filter(({ name }) => options.backends === null || options.backends.includes(name));
  const keepsHalf = allowed.some((backend) => backend.keepsHalf);
  const footprints = new WeakMap<CheckpointManifest, Footprint>();
  const footprintOf = (manifest: CheckpointManifest): Footprint => {
    const footprint = footprints.get(manifest) ?? estimateFootprint(manifest, limits, keepsHalf);
    footprints.set(manifest, footprint);
    return footprint;
  };
  const places = new Places({
    limits,
    backends: options.backends,
    entry: options.entry ?? new URL("./child.ts", import.meta.url),
    ...(options.metrics ? { metrics: options.metrics } : {}),
    ...(options.onFailure ? { onFailure: options.onFailure } : {}),
  });

  async function* generate(
    checkpoint: ResolvedCheckpoint,
    request: GenerateRequest,
    signal: AbortSignal,
    continued = false,
  ): AsyncGenerator<GenerateEvent> {
    const footprint = footprintOf(checkpoint.manifest);
    if (footprint.bytes > limits.maxMemoryBytes) {
      const sizes = `${footprint.bytes} bytes; models may take ${limits.maxMemoryBytes}`;
      throw new CodedError("model_too_large", `serving ${checkpoint.id} takes about ${sizes}`);
    }
    const { maxPositionEmbeddings } = checkpoint.manifest.config;
    const reservation = reservationOf(request, maxPositionEmbeddings);
    const arrivedAt = performance.now();
    options.metrics?.queueDepth.observe(places.numWaiting);
    const place = await places.take({ checkpoint, footprint, reservation }, signal, continued);
    options.metrics?.queueSeconds.observe((performance.now() - arrivedAt) / 1000);
    options.metrics?.promptTokens.inc(request.promptIds.length);
    try {
      yield* measured(await run(place, request, signal), arrivedAt, options.metrics, request.gather === true);
    } finally {
      place.release();
    }
  }

  return {
    generate,
    warm: () => places.warm,
    drop: (checkpointIds) => places.drop(checkpointIds),
    close: () => places.close(),
  };
}

/** Waits for the model to be loaded, or for the request to be given up. */
async function run(place: Place, request: GenerateRequest, signal: AbortSignal): Promise<AsyncIterable<GenerateEvent>> {
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => undefined);
  const abort = (): void => aborted.reject(givenUp(signal));
  signal.addEventListener("abort", abort, { once: true });
  try {
    if (signal.aborted) abort();
    await Promise.race([place.process.loaded, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
  return place.process.generate(request, signal);
}

/**
 * Passes events on and notes how long the first token took and how fast the others came.
 * @param gathered tokens come many at a time, so that the time between two tells nothing
 */
async function* measured(
  events: AsyncIterable<GenerateEvent>,
  arrivedAt: number,
  metrics: PoolMetrics | undefined,
  gathered: boolean,
): AsyncGenerator<GenerateEvent> {
  let tokens = 0;
  let firstAt = 0;
  let lastAt = 0;
  for await (const event of events) {
    if (event.type === "token") {
      const now = performance.now();
      metrics?.tokens.inc();
      if (++tokens === 1) metrics?.firstTokenSeconds.observe(((firstAt = now) - arrivedAt) / 1000);
      else if (!gathered) metrics?.tokenIntervalSeconds.observe((now - lastAt) / 1000);
      lastAt = now;
    }
    if (event.type === "cached") metrics?.cachedTokens.inc(event.tokens);
    if (event.type === "end" && tokens > 1) {
      const seconds = (performance.now() - firstAt) / 1000;
      if (seconds > 0) metrics?.tokensPerSecond.observe((tokens - 1) / seconds);
    }
    yield event;
  }
}
