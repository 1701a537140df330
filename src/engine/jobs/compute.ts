/**
 * The server's side of a compute process: starts it, passes its events on, watches its memory and its pulse,
 * and turns its death, however it comes, into an error of this job and nothing else. The process inherits no
 * secret and no database address, and ends by itself when its parent is gone.
 */
import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { CodedError, fromErrorRecord } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { ComputeRequest, FromChild, ToChild } from "./computeProtocol.ts";
import { watchMemory } from "./watchMemory.ts";

export interface ComputeLimits {
  /** Resident memory, bytes. */
  readonly memoryBytes: number;
  readonly threads: number;
  /** Longest time without any message. */
  readonly silenceMs: number;
  /** Time to obey a stop. */
  readonly stopTimeoutMs: number;
  /** The whole environment of the process. */
  readonly environment: Readonly<Record<string, string>>;
}

export interface ComputeOptions {
  readonly limits: ComputeLimits;
  /** Aborting asks for a clean stop. */
  readonly signal: AbortSignal;
  /** Told the process id once, and why the process died, if it did. */
  readonly onStart?: (pid: number) => void;
  readonly onCrash?: (cause: string, stderr: string) => void;
  /** For tests: another entry file with the same protocol. */
  readonly entry?: string;
}

const defaultEntry = fileURLToPath(new URL("./child.ts", import.meta.url));
const stderrTailChars = 4_000;
/** Enough for the longest message a person will read in an error. */
const stderrShownChars = 600;

/**
 * Runs one piece of work in a process of its own.
 * @throws the CodedError that the work threw; compute_crashed, out_of_memory, timeout for what befell the process
 */
export async function* runInChild(request: ComputeRequest, options: ComputeOptions): AsyncGenerator<WorkEvent> {
  const process = new ComputeProcess(request, options);
  try {
    for (;;) {
      const event = await process.next();
      if (event === null) return;
      yield event;
    }
  } finally {
    await process.end();
  }
}

class ComputeProcess {
  readonly #child: ChildProcess;
  readonly #options: ComputeOptions;
  readonly #events: WorkEvent[] = [];
  readonly #exited: Promise<void>;
  readonly #cleanups: (() => void)[] = [];
  #stderr = "";
  #done = false;
  #error: CodedError | null = null;
  #killedFor: CodedError | null = null;
  #wake: (() => void) | null = null;
  #lastMessageMs = Date.now();

  constructor(request: ComputeRequest, options: ComputeOptions) {
    const { limits, signal } = options;
    this.#options = options;
    const heapMiB = Math.max(64, Math.floor(limits.memoryBytes / 2 ** 20));
    this.#child = fork(options.entry ?? defaultEntry, [], {
      execArgv: [`--max-old-space-size=${heapMiB}`],
      env: { ...limits.environment },
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      serialization: "advanced",
    });
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-stderrTailChars);
    });
    this.#child.on("message", (message) => this.#onMessage(message as FromChild));
    this.#exited = new Promise((resolve) => {
      this.#child.on("error", (error) => {
        this.#settle(new CodedError("compute_crashed", "the compute process did not start", { cause: error }));
        resolve();
      });
      // "close" comes after the last of stderr and the last message
      this.#child.on("close", (code, exitSignal) => {
        this.#onExit(code, exitSignal);
        resolve();
      });
    });
    if (this.#child.pid !== undefined) options.onStart?.(this.#child.pid);
    this.#send({ type: "start", request, threads: limits.threads });
    this.#watch(limits);
    const stop = (): void => this.#stop(limits.stopTimeoutMs);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    this.#cleanups.push(() => signal.removeEventListener("abort", stop));
  }

  /** @returns the next event, or null after the last. */
  async next(): Promise<WorkEvent | null> {
    for (;;) {
      const event = this.#events.shift();
      if (event) {
        this.#send({ type: "taken" });
        return event;
      }
      if (this.#error) throw this.#error;
      if (this.#done) return null;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Makes sure that the process is gone. */
  async end(): Promise<void> {
    if (!this.#done && this.#error === null) this.#child.kill("SIGKILL");
    const late = setTimeout(() => this.#child.kill("SIGKILL"), this.#options.limits.stopTimeoutMs);
    await this.#exited;
    clearTimeout(late);
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
  }

  #send(message: ToChild): void {
    if (this.#child.connected) this.#child.send(message, () => undefined); // a lost message shows as a death
  }

  #onMessage(message: FromChild): void {
    this.#lastMessageMs = Date.now();
    if (message.type === "event") this.#events.push(message.event);
    if (message.type === "failed") {
      const error = fromErrorRecord(message.error);
      error.cause = new Error(message.trace);
      this.#error ??= error;
    }
    if (message.type === "done") this.#done = true;
    this.#wake?.();
  }

  #settle(error: CodedError | null): void {
    this.#error ??= error;
    this.#wake?.();
  }

  #onExit(code: number | null, signal: NodeJS.Signals | null): void {
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
    if (this.#done || this.#error !== null) return this.#settle(null);
    const error = this.#killedFor ?? crashError(code, signal, this.#stderr);
    this.#options.onCrash?.(error.code, this.#stderr);
    this.#settle(error);
  }

  #kill(error: CodedError): void {
    this.#killedFor ??= error;
    this.#child.kill("SIGKILL");
  }

  #stop(timeoutMs: number): void {
    this.#send({ type: "stop" });
    const message = `the compute process did not stop within ${timeoutMs / 1000} s`;
    const timer = setTimeout(() => this.#kill(new CodedError("timeout", message)), timeoutMs);
    this.#cleanups.push(() => clearTimeout(timer));
  }

  #watch(limits: ComputeLimits): void {
    const check = setInterval(
      () => {
        const silentMs = Date.now() - this.#lastMessageMs;
        if (silentMs < limits.silenceMs) return;
        const message = `the compute process said nothing for ${Math.round(silentMs / 1000)} s and was killed`;
        this.#kill(new CodedError("timeout", message));
      },
      Math.min(1_000, limits.silenceMs / 2),
    );
    this.#cleanups.push(() => clearInterval(check));
    const { pid } = this.#child;
    if (pid === undefined) return;
    const unwatch = watchMemory(pid, limits.memoryBytes, (rssBytes) => {
      const message = `the compute process took ${rssBytes} bytes of memory; at most ${limits.memoryBytes} are allowed`;
      this.#kill(new CodedError("out_of_memory", message, { details: { rss_bytes: rssBytes } }));
    });
    this.#cleanups.push(unwatch);
  }
}

function crashError(code: number | null, signal: NodeJS.Signals | null, stderr: string): CodedError {
  const how = signal === null ? `exited with code ${String(code)}` : `was killed by ${signal}`;
  if (/heap out of memory|Array buffer allocation failed/.test(stderr)) {
    return new CodedError("out_of_memory", `the compute process ran out of memory (${how})`);
  }
  const hint = signal === "SIGKILL" ? " (the kernel does that when the machine runs out of memory)" : "";
  const said = stderr.trim().slice(-stderrShownChars);
  const details = { exit_code: code, signal, stderr: said };
  return new CodedError("compute_crashed", `the compute process ${how}${hint}`, { details });
}
