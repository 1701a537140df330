/**
 * Starting and ending the helper threads of a training, and the conversation with one. Threads of this process and
 * not processes of their own, because weights and gradients go through memory that both sides see.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { CodedError, fromErrorRecord } from "../../ops/errors.ts";
import type { KernelChoice } from "../kernels/index.ts";
import type { KernelVariant } from "../kernels/wasm/variants.ts";
import { createHeapTransfer } from "../kernels/wasm/transfer.ts";
import type { FromHelper, HelperStart, ToHelper } from "../train/gradientProtocol.ts";
import type { GradientSource } from "../train/gradients.ts";
import type { Model } from "../train/loss.ts";
import type { GradientThread } from "../train/parallelGradients.ts";
import { parallelGradients } from "../train/parallelGradients.ts";
import type { TfjsBackendName } from "./tfjsRuntime.ts";

/** A helper that loads no kernels for so long is given up. */
const startTimeoutMs = 60_000;
/** A helper that computes one micro-batch for so long is given up. */
const answerTimeoutMs = 3_600_000;

/** What `threadId` is from then on. */
const ended = -1;

/** Given to a helper thread. */
export interface ThreadData {
  readonly tfjs: TfjsBackendName;
  readonly kernels: KernelChoice;
  readonly variant: KernelVariant | null;
  readonly start: HelperStart;
}

/**
 * @param threads this one included, at least 2
 * @returns gradients computed by that many threads with these kernels; close it to end them
 * @throws backend_unavailable, out_of_memory, internal
 */
export async function startGradientThreads(
  model: Model,
  threads: number,
  { tfjs, kernels, variant }: Omit<ThreadData, "start">,
): Promise<GradientSource> {
  const tensors = [...model.weights].map(([name, { shape }]) => ({ name, shape }));
  const elements = [...model.weights.values()].reduce((sum, { size }) => sum + size, 0);
  const weights = new SharedArrayBuffer(elements * 4);
  const helpers: GradientThread[] = [];
  try {
    // One after the other: compiling kernels turns flags of the whole process.
    for (let thread = 1; thread < threads; thread++) {
      const gradient = new SharedArrayBuffer(elements * 4);
      helpers.push(
        await startThread({ tfjs, kernels, variant, start: { config: model.config, tensors, weights, gradient } }),
      );
    }
  } catch (error) {
    await Promise.all(helpers.map((helper) => helper.close()));
    throw error;
  }
  return parallelGradients(model, helpers, new Float32Array(weights), createHeapTransfer());
}

async function startThread(data: ThreadData): Promise<GradientThread> {
  const worker = new Worker(new URL("./gradientThread.ts", import.meta.url), { workerData: data });
  // A failure is seen by who waits for an answer, or by the next question; else it would end this process.
  worker.on("error", () => undefined);
  try {
    const ready = await answer(worker, startTimeoutMs);
    if (ready.type !== "ready") throw new Error(`invariant: a helper thread began with ${ready.type}`);
  } catch (error) {
    await worker.terminate();
    throw error;
  }
  return {
    gradient: new Float32Array(data.start.gradient),
    async compute(request: ToHelper) {
      const coming = answer(worker, answerTimeoutMs);
      worker.postMessage(request);
      const done = await coming;
      if (done.type !== "done") throw new Error(`invariant: a helper thread answered ${done.type}`);
      return done.loss;
    },
    async close() {
      await worker.terminate();
    },
  };
}

/** @returns the next message. @throws what the thread reports; internal when it ends or is silent */
async function answer(worker: Worker, timeoutMs: number): Promise<Exclude<FromHelper, { type: "failed" }>> {
  if (worker.threadId === ended) throw new CodedError("internal", "a helper thread of the training has ended");
  const waiting = new AbortController();
  const timer = setTimeout(() => waiting.abort(), timeoutMs);
  const { signal } = waiting;
  try {
    const message = await Promise.race([
      once(worker, "message", { signal }).then(([first]) => first as FromHelper),
      once(worker, "exit", { signal }).then(([code]): never => {
        throw new CodedError("internal", `a helper thread of the training ended with code ${code}`);
      }),
    ]);
    if (message.type === "failed") throw fromErrorRecord(message.error);
    return message;
  } catch (cause) {
    if (!signal.aborted) throw cause;
    throw new CodedError("internal", `a helper thread of the training was silent for ${timeoutMs} ms`, { cause });
  } finally {
    clearTimeout(timer);
    waiting.abort();
  }
}
