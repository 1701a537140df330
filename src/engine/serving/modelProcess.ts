/**
 * One model process as the pool holds it: started with a scrubbed environment, loaded once, asked to generate,
 * watched (memory, silence) and, whatever happens to it, never the server's death: its requests fail with
 * `compute_crashed` and it is gone. A process holds one checkpoint, so that unloading is ending the process:
 * memory then surely comes back, and one model's fault cannot touch another's requests.
 */
import { fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { CodedError, fromErrorRecord } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { StepStats } from "../infer/batcher.ts";
import type { GenerateEvent, GenerateRequest, ServedModel } from "../infer/servedModel.ts";
import { computeEnvironment } from "../settings.ts";
import { createEventQueue } from "./eventQueue.ts";
import type { EventQueue } from "./eventQueue.ts";
import { givenUp } from "./givenUp.ts";
import { createWatchdog } from "./processWatchdog.ts";
import type { Watchdog, WatchdogLimits } from "./processWatchdog.ts";
import { parseFromChild } from "./protocol.ts";
import type { FromChild, ToChild } from "./protocol.ts";

export interface ModelProcessOptions extends WatchdogLimits {
  /** The ENTRY to fork. */
  readonly entry: URL;
  /** Names of the backends that may be used; null for all. */
  readonly backends: readonly string[] | null;
  readonly checkpoint: ResolvedCheckpoint;
  /** Positions that its caches may hold together; 0 keeps nothing between requests. */
  readonly cachePositions: number;
  readonly cacheDtype: CacheDtype;
  /** JavaScript heap limit, MiB. */
  readonly maxHeapMiB: number;
  /** Told of the steps that the process made. */
  readonly onSteps?: (steps: readonly StepStats[]) => void;
}

export type LoadedModel = Pick<ServedModel, "maxLength" | "memoryBytes" | "sharesPages">;

/** Events a slow reader may leave unread. */
const maxUnreadEvents = 100_000;
/** Time a process gets to end by itself when its channel closes. */
const closeGraceMs = 2000;
/** Time in which the last words of a process that has ended must have come. */
const lastWordsMs = 200;
/** Characters of its last words kept for the log. */
const stderrTailLength = 4096;

export class ModelProcess {
  /** Settles once; rejects with the reason of a load that failed. */
  readonly loaded: Promise<LoadedModel>;
  /** Resolves when the process is gone, with the error that explains it, or null when it was closed on purpose. */
  readonly exited: Promise<CodedError | null>;

  readonly #options: ModelProcessOptions;
  readonly #child: ChildProcess;
  readonly #watchdog: Watchdog;
  readonly #running = new Map<number, EventQueue<GenerateEvent>>();
  readonly #ready = Promise.withResolvers<LoadedModel>();
  readonly #gone = Promise.withResolvers<CodedError | null>();
  #nextId = 0;
  #rssBytes = 0;
  #closing = false;
  #stderr = "";
  /** Why it was killed. */
  #verdict: CodedError | null = null;
  /** Set once the process is gone. */
  #end: CodedError | null = null;

  /** Starts the process and has it load its checkpoint. */
  constructor(options: ModelProcessOptions) {
    this.#options = options;
    this.loaded = this.#ready.promise;
    this.exited = this.#gone.promise;
    // A load that fails while nobody waits for it must not end the server.
    this.loaded.catch(() => undefined);
    this.#child = fork(options.entry, [], {
      env: computeEnvironment(),
      execArgv: [`--max-old-space-size=${options.maxHeapMiB}`],
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    this.#watchdog = createWatchdog(options, options.checkpoint.id, (error) => this.#condemn(error));
    this.#listen();
    const { backends, checkpoint, cachePositions, cacheDtype } = options;
    this.#send({ type: "load", backends, checkpoint, cachePositions, cacheDtype });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Resident bytes when the process last told. */
  get rssBytes(): number {
    return this.#rssBytes;
  }

  /**
   * To be called after `loaded`. Leaving the loop or aborting cancels it in the process too.
   * @throws compute_crashed, out_of_memory, cancelled, unavailable, and what the model throws
   */
  async *generate(request: GenerateRequest, signal: AbortSignal): AsyncGenerator<GenerateEvent> {
    if (this.#end !== null) throw this.#end;
    const id = this.#nextId++;
    const queue = createEventQueue<GenerateEvent>(maxUnreadEvents);
    const abort = (): void => queue.fail(givenUp(signal));
    this.#running.set(id, queue);
    signal.addEventListener("abort", abort, { once: true });
    try {
      if (signal.aborted) abort();
      else this.#send({ type: "generate", id, request });
      yield* queue;
    } finally {
      signal.removeEventListener("abort", abort);
      if (this.#running.delete(id)) this.#send({ type: "cancel", id });
    }
  }

  /** Ends the process; what still runs fails with `unavailable`. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), closeGraceMs);
    await this.exited;
    clearTimeout(timer);
  }

  #listen(): void {
    const child = this.#child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-stderrTailLength);
    });
    child.on("message", (raw) => {
      const message = parseFromChild(raw);
      if (message !== null) this.#receive(message);
      else this.#condemn(new CodedError("compute_crashed", "a model process spoke nonsense and was ended"));
    });
    child.on("error", (error) => {
      // Also raised when a message could not be delivered; then `exit` follows.
      if (child.pid === undefined) this.#ended(`it could not be started: ${error.message}`);
    });
    child.on("exit", (code, signal) => {
      // Its last words may come after the news of its end.
      const ended = (): void => this.#ended(signal ?? `exit code ${code}`);
      if (child.stderr === null || child.stderr.readableEnded) return ended();
      const timer = setTimeout(ended, lastWordsMs);
      child.stderr.once("close", () => {
        clearTimeout(timer);
        ended();
      });
    });
  }

  #receive(message: FromChild): void {
    this.#watchdog.heard();
    if (message.type === "health") {
      this.#rssBytes = message.rssBytes;
      this.#watchdog.sized(message.rssBytes);
    } else if (message.type === "loaded") {
      this.#watchdog.loaded();
      this.#ready.resolve(message);
    } else if (message.type === "failed") this.#condemn(fromErrorRecord(message.error));
    else if (message.type === "error") this.#running.get(message.id)?.fail(fromErrorRecord(message.error));
    else {
      this.#options.onSteps?.(message.steps);
      for (const { id, event } of message.events) {
        const queue = this.#running.get(id);
        queue?.push(event);
        if (event.type === "end") queue?.end();
      }
    }
  }

  #send(message: ToChild): void {
    // Whether it arrives is told by answers and by `exit`; a channel that closes meanwhile is no error here.
    if (this.#child.connected) this.#child.send(message, () => undefined);
  }

  #condemn(error: CodedError): void {
    this.#verdict ??= error;
    this.#child.kill("SIGKILL");
  }

  #ended(reason: string): void {
    if (this.#end !== null) return;
    const { id } = this.#options.checkpoint;
    const unasked = this.#closing
      ? new CodedError("unavailable", `${id} was unloaded`)
      : new CodedError("compute_crashed", `the process serving ${id} ended (${reason})`);
    this.#end = this.#verdict ?? unasked;
    if (this.#stderr !== "") this.#end.cause ??= new Error(this.#stderr);
    this.#watchdog.stop();
    this.#ready.reject(this.#end);
    for (const queue of this.#running.values()) queue.fail(this.#end);
    this.#running.clear();
    this.#gone.resolve(this.#verdict === null && this.#closing ? null : this.#end);
  }
}
