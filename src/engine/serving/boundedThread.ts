/**
 * A thread for work that might never end, or fill memory: one task at a time, each with a time limit, a bounded line
 * before it, and a heap of its own. A task that takes too long, or kills the thread, fails alone: the thread is
 * started anew for those who wait.
 */
import { parentPort, Worker } from "node:worker_threads";
import { CodedError, fromErrorRecord, invariant, toErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";

export interface ThreadOptions {
  /** The ENTRY of the thread, which calls `serveTasks`. */
  readonly entry: URL;
  /** In errors: "the tokenizer". */
  readonly what: string;
  /** Tasks that may wait. */
  readonly maxWaiting: number;
  /** For one task, from its start. */
  readonly timeoutMs: number;
  /** JavaScript heap, MiB. */
  readonly heapMiB: number;
}

interface Waiting<Task, Answer> {
  readonly task: Task;
  resolve(answer: Answer): void;
  reject(error: CodedError): void;
}

type Reply<Answer> = { readonly ready: true } | { readonly answer: Answer } | { readonly error: ErrorRecord };

/** For a thread to load its code, which does not count as the task's time. */
const startTimeoutMs = 60_000;

export class BoundedThread<Task, Answer> {
  readonly #options: ThreadOptions;
  readonly #line: Waiting<Task, Answer>[] = [];
  #running: Waiting<Task, Answer> | null = null;
  #worker: Worker | null = null;
  /** Whether the worker has loaded its code. */
  #isReady = false;
  #timer: NodeJS.Timeout | undefined;

  /** The thread is started at the first need and does not keep the process alive. */
  constructor(options: ThreadOptions) {
    this.#options = options;
  }

  /** @throws too_many_requests, timeout, out_of_memory, compute_crashed, and what the task throws */
  async ask(task: Task): Promise<Answer> {
    const { maxWaiting, what } = this.#options;
    if (this.#line.length >= maxWaiting) {
      throw new CodedError("too_many_requests", `${this.#line.length} requests wait for ${what}; come again later`);
    }
    const outcome = Promise.withResolvers<Answer>();
    this.#line.push({ task, ...outcome });
    this.#next();
    return outcome.promise;
  }

  async close(): Promise<void> {
    const error = new CodedError("unavailable", "the server is shutting down");
    for (const { reject } of this.#line.splice(0)) reject(error);
    await this.#end(error);
  }

  #next(): void {
    if (this.#running !== null) return;
    const next = this.#line.shift();
    if (next === undefined) return;
    this.#running = next;
    this.#worker ??= this.#start();
    this.#allow(this.#isReady ? this.#options.timeoutMs : startTimeoutMs);
    this.#worker.postMessage(next.task);
  }

  #allow(timeoutMs: number): void {
    clearTimeout(this.#timer);
    const late = new CodedError("timeout", `${this.#options.what} took longer than ${timeoutMs} ms`);
    this.#timer = setTimeout(() => void this.#end(late), timeoutMs);
  }

  #start(): Worker {
    const { entry, heapMiB } = this.#options;
    const resourceLimits = { maxOldGenerationSizeMb: heapMiB };
    const worker = new Worker(entry, { env: {}, execArgv: [], resourceLimits });
    worker.on("message", (reply: Reply<Answer>) => {
      if (worker !== this.#worker) return;
      if ("ready" in reply) return this.#begun();
      const asked = this.#finish();
      if ("error" in reply) asked?.reject(fromErrorRecord(reply.error));
      else asked?.resolve(reply.answer);
      this.#next();
    });
    worker.on("error", (cause) => {
      if (worker === this.#worker) void this.#end(this.#death(cause));
    });
    // After the listeners: adding one for messages keeps the process alive again.
    worker.unref();
    return worker;
  }

  #begun(): void {
    this.#isReady = true;
    if (this.#running !== null) this.#allow(this.#options.timeoutMs);
  }

  #death(cause: Error): CodedError {
    const { what } = this.#options;
    const isFull = (cause as NodeJS.ErrnoException).code === "ERR_WORKER_OUT_OF_MEMORY";
    if (isFull) return new CodedError("out_of_memory", `${what} ran out of memory`, { cause });
    return new CodedError("compute_crashed", `${what} died`, { cause });
  }

  /** Ends the thread and fails what runs in it; those who wait get another. */
  async #end(error: CodedError): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    this.#isReady = false;
    this.#finish()?.reject(error);
    this.#next();
    await worker?.terminate();
  }

  #finish(): Waiting<Task, Answer> | null {
    clearTimeout(this.#timer);
    const asked = this.#running;
    this.#running = null;
    return asked;
  }
}

/** The thread's side: answers each task by `work`. */
export function serveTasks<Task, Answer>(work: (task: Task) => Promise<Answer> | Answer): void {
  invariant(parentPort !== null, "a thread was started as a program");
  const port = parentPort;
  port.on("message", (task: Task) => {
    void (async (): Promise<Reply<Answer>> => {
      try {
        return { answer: await work(task) };
      } catch (error) {
        return { error: toErrorRecord(error) };
      }
    })().then((reply) => port.postMessage(reply));
  });
  port.postMessage({ ready: true });
}
