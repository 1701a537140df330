/**
 * A process for work that might never end, or fill memory: one task at a time, each with a time limit, a bounded
 * line before it, and a heap of its own. A task that takes too long, or kills the process, fails alone: the process
 * is started anew for those who wait. It is no thread, since a thread whose heap fills in one leap takes the whole
 * process with it.
 */
import { fork } from "node:child_process";
import type { ChildProcess, Serializable } from "node:child_process";
import { once } from "node:events";
import { CodedError, fromErrorRecord, invariant, toErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import { endWithParent } from "./endWithParent.ts";

export interface BoundedProcessOptions {
  /** The ENTRY of the process, which calls `serveTasks`. */
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

/** For a process to load its code, which does not count as the task's time. */
const startTimeoutMs = 60_000;

export class BoundedProcess<Task, Answer> {
  readonly #options: BoundedProcessOptions;
  readonly #line: Waiting<Task, Answer>[] = [];
  #running: Waiting<Task, Answer> | null = null;
  #child: ChildProcess | null = null;
  /** Whether the process has loaded its code. */
  #isReady = false;
  #timer: NodeJS.Timeout | undefined;

  /** The process is started at the first need and does not keep this one alive. */
  constructor(options: BoundedProcessOptions) {
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
    this.#child ??= this.#start();
    this.#allow(this.#isReady ? this.#options.timeoutMs : startTimeoutMs);
    // A channel that closed first makes no noise here: the exit tells the rest.
    this.#child.send(next.task as Serializable, () => undefined);
  }

  #allow(timeoutMs: number): void {
    clearTimeout(this.#timer);
    const late = new CodedError("timeout", `${this.#options.what} took longer than ${timeoutMs} ms`);
    this.#timer = setTimeout(() => void this.#end(late), timeoutMs);
  }

  #start(): ChildProcess {
    const { entry, heapMiB } = this.#options;
    const child = fork(entry, [], {
      env: {},
      execArgv: [`--max-old-space-size=${heapMiB}`],
      serialization: "advanced",
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    child.on("message", (reply: Reply<Answer>) => {
      if (child !== this.#child) return;
      if ("ready" in reply) return this.#begun();
      const asked = this.#finish();
      if ("error" in reply) asked?.reject(fromErrorRecord(reply.error));
      else asked?.resolve(reply.answer);
      this.#next();
    });
    child.on("error", (cause) => this.#died(child, cause.message));
    child.on("exit", (code, signal) => this.#died(child, signal ?? `exit code ${code}`));
    // After the listeners: adding one for messages keeps this process alive again.
    child.unref();
    child.channel?.unref();
    return child;
  }

  #begun(): void {
    this.#isReady = true;
    if (this.#running !== null) this.#allow(this.#options.timeoutMs);
  }

  #died(child: ChildProcess, how: string): void {
    if (child !== this.#child) return;
    const { what, heapMiB } = this.#options;
    // V8 aborts when its heap is full; nothing else of what runs there does.
    const error =
      how === "SIGABRT"
        ? new CodedError("out_of_memory", `${what} needed more than ${heapMiB} MiB of memory`)
        : new CodedError("compute_crashed", `${what} died: ${how}`);
    void this.#end(error);
  }

  /** Ends the process and fails what runs in it; those who wait get another. */
  async #end(error: CodedError): Promise<void> {
    const child = this.#child;
    this.#child = null;
    this.#isReady = false;
    this.#finish()?.reject(error);
    this.#next();
    if (child === null || child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  #finish(): Waiting<Task, Answer> | null {
    clearTimeout(this.#timer);
    const asked = this.#running;
    this.#running = null;
    return asked;
  }
}

/** The process's side: answers each task by `work`, and ends when its parent has. */
export function serveTasks<Task, Answer>(work: (task: Task) => Promise<Answer> | Answer): void {
  invariant(process.send !== undefined, "a process for bounded tasks was started as a program");
  const send = process.send.bind(process);
  endWithParent();
  process.on("message", (task: Task) => {
    void (async (): Promise<Reply<Answer>> => {
      try {
        return { answer: await work(task) };
      } catch (error) {
        return { error: toErrorRecord(error) };
      }
    })().then((reply) => send(reply));
  });
  send({ ready: true });
}
