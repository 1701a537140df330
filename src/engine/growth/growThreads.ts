/**
 * Several tensors of a growth at once, a thread each. A thread plans the growth itself, because recipes are functions;
 * it is told the number of a tensor and a path, and answers with the digest of what it wrote there. The longest
 * tensors go first, so that no thread is left with a long one at the end. Ends with all threads gone, however it ends.
 */
import { Worker } from "node:worker_threads";
import { fromErrorRecord, type ErrorRecord } from "../../ops/errors.ts";
import type { BuiltFile } from "./buildTensor.ts";
import { compileRowKernel } from "./rowKernel.ts";
import type { GrowWork } from "./work.ts";

/** What a thread starts with. */
export interface GrowThreadData {
  readonly work: GrowWork;
  readonly kernel: WebAssembly.Module;
}

/** A tensor by its number among the plan's orders, and the file to make of it. */
export interface OrderedFile {
  readonly index: number;
  readonly path: string;
}

export type GrowAnswer =
  | { readonly type: "bytes"; readonly bytes: number }
  | { readonly type: "built"; readonly built: BuiltFile }
  | { readonly type: "failed"; readonly error: ErrorRecord | null; readonly trace: string };

export interface ThreadOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onBytes: (bytes: number) => void;
  readonly onBuilt: (path: string) => void;
}

/**
 * @param files what to build, with their sizes
 * @returns what was built, in the order of `files`
 * @throws as `buildTensor`; cancelled by the signal. Files made so far are the caller's to remove
 */
export async function buildInThreads(
  work: GrowWork,
  files: readonly (OrderedFile & { readonly sizeBytes: number })[],
  threads: number,
  options: ThreadOptions,
): Promise<BuiltFile[]> {
  const { signal } = options;
  signal?.throwIfAborted();
  const queue = files.map((file, at) => ({ ...file, at })).sort((a, b) => b.sizeBytes - a.sizeBytes);
  const built = new Array<BuiltFile>(files.length);
  const ended = Promise.withResolvers<void>();
  const onAbort = (): void => ended.reject(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  let left = files.length;
  const workers: Worker[] = [];
  const workerData: GrowThreadData = { work, kernel: compileRowKernel() };
  const start = (): void => {
    const worker = new Worker(new URL("./growThread.ts", import.meta.url), { workerData });
    workers.push(worker);
    let current: (typeof queue)[number] | undefined;
    const feed = (): void => {
      current = queue.shift();
      if (current !== undefined) worker.postMessage({ index: current.index, path: current.path } satisfies OrderedFile);
    };
    worker.on("error", (cause) => ended.reject(new Error("a growing thread failed", { cause })));
    worker.on("exit", () => ended.reject(new Error("a growing thread ended early")));
    worker.on("message", (answer: GrowAnswer) => {
      if (answer.type === "bytes") return options.onBytes(answer.bytes);
      if (answer.type === "failed") return ended.reject(errorOf(answer));
      built[current!.at] = answer.built;
      options.onBuilt(current!.path);
      left -= 1;
      if (left === 0) ended.resolve();
      feed();
    });
    feed();
  };
  try {
    for (let index = 0; index < threads; index += 1) start();
    await ended.promise;
    return built;
  } finally {
    signal?.removeEventListener("abort", onAbort);
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function errorOf({ error, trace }: Extract<GrowAnswer, { type: "failed" }>): Error {
  if (error === null) return new Error(`a growing thread failed: ${trace}`);
  return fromErrorRecord(error);
}
