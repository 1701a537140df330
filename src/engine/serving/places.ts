/**
 * Who may run on which model, and when: the processes, and what is unloaded to make room. It decides;
 * `modelProcess.ts` does. The rule is in `#pump`: walk the line in order, start what can start.
 */
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { Reservation } from "../infer/positions.ts";
import { positionsHeld } from "../infer/positions.ts";
import type { Footprint } from "./footprint.ts";
import { ModelProcess } from "./modelProcess.ts";
import type { PoolLimits, PoolOptions } from "./pool.ts";
import { observeSteps } from "./poolMetrics.ts";
import { WaitingLine } from "./waitingLine.ts";

/** One request's right to run on a model; `release` must be called once it has ended. */
export interface Place {
  readonly process: ModelProcess;
  release(): void;
}

export interface PlacesOptions extends Omit<PoolOptions, "limits" | "entry"> {
  readonly limits: PoolLimits;
  readonly entry: URL;
}

/** What a request needs. */
export interface Wish {
  readonly checkpoint: ResolvedCheckpoint;
  readonly footprint: Footprint;
  /** Of the model's caches, at most `footprint.positions`. */
  readonly reservation: Reservation;
}

/** A loaded or loading checkpoint. */
interface Model {
  readonly id: string;
  readonly process: ModelProcess;
  readonly footprint: Footprint;
  /** What the requests on it hold of its caches. */
  readonly active: Set<Reservation>;
  /** Order of last use; the smallest is unloaded first. */
  usedAt: number;
  isLoaded: boolean;
  /** Whether those with one prompt hold its pages in common; not known before it is loaded. */
  sharesPages: boolean;
  /** No request is started on it any more: it ends when the last has ended. */
  retiring: boolean;
  idleTimer: NodeJS.Timeout | null;
}

/** A process's hard limit over its estimate: loading holds a tensor twice, and heaps do not shrink. */
const rssFactor = 2;
const rssSlackBytes = 512 * 1024 * 1024;
const maxHeapMiB = 1024;

export class Places {
  readonly #options: PlacesOptions;
  readonly #models = new Map<string, Model>();
  readonly #line: WaitingLine<Wish, Place>;
  #clock = 0;
  #closed = false;

  constructor(options: PlacesOptions) {
    this.#options = options;
    const { maxQueued, queueTimeoutMs } = options.limits;
    this.#line = new WaitingLine({ maxLength: maxQueued, timeoutMs: queueTimeoutMs, onLeave: () => this.#pump() });
  }

  /** Ids of the checkpoints that are loaded. */
  get warm(): readonly string[] {
    return [...this.#models.values()].filter((model) => model.isLoaded && !model.retiring).map((model) => model.id);
  }

  /** Requests that wait, their further choices not counted. */
  get numWaiting(): number {
    return this.#line.length;
  }

  /**
   * Waits for a place on the checkpoint's model, which may still be loading then.
   * @throws too_many_requests, cancelled, unavailable
   */
  async take(wish: Wish, signal: AbortSignal, continued: boolean): Promise<Place> {
    if (this.#closed) throw shuttingDown();
    const place = this.#line.join(wish, signal, continued);
    this.#pump();
    return place;
  }

  /** Unloads checkpoints as soon as what runs on them has ended. */
  drop(checkpointIds: readonly string[]): void {
    for (const id of checkpointIds) {
      const model = this.#models.get(id);
      if (model !== undefined) this.#retire(model);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#line.clear(shuttingDown());
    await Promise.all([...this.#models.values()].map((model) => model.process.close()));
  }

  /** Starts every request that may start, in order of arrival. */
  #pump(): void {
    const full = new Set<Model>();
    for (const ticket of this.#line.inOrder()) {
      if (this.#closed) break;
      const { checkpoint, footprint, reservation } = ticket.wish;
      const model = this.#models.get(checkpoint.id);
      if (model === undefined) {
        // Those behind wait too, or a busy model could keep this one out for ever.
        if (!this.#makeRoom(footprint.bytes)) break;
        ticket.serve(this.#occupy(this.#load(ticket.wish), reservation));
      } else if (!full.has(model)) {
        if (this.#hasPlace(model, reservation)) ticket.serve(this.#occupy(model, reservation));
        // Short requests must not keep a long one out for ever.
        else full.add(model);
      }
    }
    this.#report();
  }

  #report(): void {
    const { metrics } = this.#options;
    if (metrics === undefined) return;
    const models = [...this.#models.values()];
    metrics.queued.set(this.#line.length);
    metrics.processes.set(models.length);
    metrics.active.set(models.reduce((sum, model) => sum + model.active.size, 0));
    metrics.memoryBytes.set(models.reduce((sum, model) => sum + model.footprint.bytes, 0));
  }

  #hasPlace(model: Model, reservation: Reservation): boolean {
    const { active, footprint, retiring, sharesPages } = model;
    if (retiring || active.size >= this.#options.limits.maxActive) return false;
    const all = [...active, reservation];
    const held = sharesPages ? positionsHeld(all) : all.reduce((sum, { positions }) => sum + positions, 0);
    return held <= footprint.positions;
  }

  /** Takes a step towards room for a model. @returns whether there is room now */
  #makeRoom(neededBytes: number): boolean {
    const { maxModels, maxMemoryBytes } = this.#options.limits;
    const all = [...this.#models.values()];
    const used = all.reduce((sum, model) => sum + model.footprint.bytes, 0);
    if (all.length < maxModels && used + neededBytes <= maxMemoryBytes) return true;
    // Memory counts until the process is gone; then the line is walked again.
    if (all.some((model) => model.retiring)) return false;
    const idle = all.filter((model) => model.active.size === 0 && model.isLoaded);
    const oldest = idle.sort((a, b) => a.usedAt - b.usedAt)[0];
    if (oldest !== undefined) this.#retire(oldest);
    return false;
  }

  #load({ checkpoint, footprint }: Wish): Model {
    const { limits, entry, backends, metrics } = this.#options;
    const startedAt = performance.now();
    const process = new ModelProcess({
      entry,
      backends,
      checkpoint,
      cachePositions: limits.keepPrompts ? footprint.positions : 0,
      cacheDtype: limits.cacheDtype,
      loadTimeoutMs: limits.loadTimeoutMs,
      stuckTimeoutMs: limits.stuckTimeoutMs,
      maxRssBytes: rssFactor * footprint.bytes + rssSlackBytes,
      maxHeapMiB,
      ...(metrics ? { onSteps: (steps) => observeSteps(metrics, steps) } : {}),
    });
    const model: Model = {
      id: checkpoint.id,
      process,
      footprint,
      active: new Set(),
      usedAt: 0,
      isLoaded: false,
      sharesPages: false,
      retiring: false,
      idleTimer: null,
    };
    this.#models.set(model.id, model);
    process.loaded.then(
      ({ sharesPages }) => {
        Object.assign(model, { isLoaded: true, sharesPages });
        metrics?.coldStartSeconds.observe((performance.now() - startedAt) / 1000);
        this.#pump();
      },
      () => (model.retiring = true),
    );
    void process.exited.then((error) => this.#forget(model, error));
    return model;
  }

  /** @param reservation the request's own object */
  #occupy(model: Model, reservation: Reservation): Place {
    model.active.add(reservation);
    model.usedAt = ++this.#clock;
    if (model.idleTimer !== null) clearTimeout(model.idleTimer);
    return {
      process: model.process,
      release: () => {
        if (!model.active.delete(reservation)) return;
        if (model.active.size === 0) this.#rest(model);
        this.#pump();
      },
    };
  }

  #rest(model: Model): void {
    if (model.retiring) return void model.process.close();
    model.idleTimer = setTimeout(() => this.#retire(model), this.#options.limits.idleTimeoutMs);
    model.idleTimer.unref();
  }

  #retire(model: Model): void {
    model.retiring = true;
    if (model.active.size === 0) void model.process.close();
  }

  #forget(model: Model, error: CodedError | null): void {
    if (model.idleTimer !== null) clearTimeout(model.idleTimer);
    this.#models.delete(model.id);
    if (error !== null) {
      this.#options.metrics?.failures.inc();
      this.#options.onFailure?.(model.id, error);
    }
    this.#pump();
  }
}

function shuttingDown(): CodedError {
  return new CodedError("unavailable", "the server is shutting down");
}
