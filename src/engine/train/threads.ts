/**
 * How many threads a training uses, and the micro-batch that follows. Threads compute whole micro-batches, so there
 * must be at least one for each, and each has a heap of its own. Their number never changes the bytes of a run by
 * itself (`parallelGradients.ts`); it does through the size of a micro-batch where that is chosen here, and so a
 * resumed run keeps the size it began with and may take any number of threads.
 */
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { GradientSource } from "./gradients.ts";
import type { Model } from "./loss.ts";
import { chooseMicroBatch, estimateTrainingMemory, sensibleTokens } from "./memory.ts";

/** What a backend offers a training beside the thread that it runs on. */
export interface ThreadOptions {
  /** Threads in all, at least 1. */
  readonly most: number;
  /** Bytes that one thread has for tensors, and that all have together; null when unknown. */
  readonly heapBytes: number | null;
  readonly totalBytes: number | null;
  /** Floating-point operations of a whole run below which it gets one thread; 1e11 unless given. */
  readonly leastFlops?: number;
  /** @returns gradients computed by so many threads. */
  start(model: Model, threads: number): Promise<GradientSource>;
}

export interface ThreadPlan {
  readonly threads: number;
  /** Sequences computed at once by each. */
  readonly microSequences: number;
}

/** The shape of a batch, and the micro-batch that was asked for or that a resumed run began with. */
export interface BatchShape {
  readonly sequences: number;
  readonly length: number;
  readonly asked: number | null;
}

/** A run of less arithmetic than this is over before helper threads have started to pay. */
const usualLeastFlops = 1e11;

/**
 * @param flops of the whole run
 * @param memoryBytes what one thread alone has, or null when unknown
 * @throws as `chooseMicroBatch`, when not even one thread can do it
 */
export function planThreads(
  config: LlamaConfig,
  batch: BatchShape,
  flops: number,
  memoryBytes: number | null,
  options: Omit<ThreadOptions, "start"> | undefined,
): ThreadPlan {
  const { sequences, length, asked } = batch;
  const most = options && flops >= (options.leastFlops ?? usualLeastFlops) ? Math.min(options.most, sequences) : 1;
  for (let threads = most; threads > 1 && options; threads--) {
    const microSequences = sharedMicroBatch(config, batch, threads, options);
    if (microSequences === null) continue;
    return { threads: Math.min(threads, sequences / microSequences), microSequences };
  }
  return { threads: 1, microSequences: chooseMicroBatch(config, sequences, length, asked, memoryBytes) };
}

/** @returns the largest micro-batch of which every thread gets one and that fits, or null where none does */
function sharedMicroBatch(
  config: LlamaConfig,
  { sequences, length, asked }: BatchShape,
  threads: number,
  { heapBytes, totalBytes }: Omit<ThreadOptions, "start">,
): number | null {
  const available = Math.min(heapBytes ?? Infinity, (totalBytes ?? Infinity) / threads);
  const fits = (micro: number): boolean => estimateTrainingMemory(config, micro, length) <= available;
  if (asked !== null) return sequences % asked === 0 && sequences / asked > 1 && fits(asked) ? asked : null;
  for (let micro = Math.floor(sequences / threads); micro >= 1; micro--) {
    const sensible = micro === 1 || micro * length <= sensibleTokens;
    if (sequences % micro === 0 && sensible && fits(micro)) return micro;
  }
  return null;
}
