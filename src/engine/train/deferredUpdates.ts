/**
 * Updates on a device that computes behind the caller's back: micro-batches and updates are asked for ahead of it, and
 * nothing waits for a number. Losses and norms are read back many updates at once, while the next ones are computed,
 * so that the device always has something to do.
 *
 * What bounds this: so many micro-batches are asked for ahead that the device never idles, no more, for a run that is
 * asked to stop has to wait for them; and the outcome of an update is known at most `mostUnread` updates later. An
 * update that went wrong has changed nothing (`kernels/deferred.ts`), and the trainer asks for all outcomes before it
 * validates or saves.
 */
import { setImmediate } from "node:timers/promises";
import * as tf from "@tensorflow/tfjs";
import { decisionSize, readDecision, type DeferredUpdates } from "../kernels/deferred.ts";
import { addGradients } from "./gradients.ts";
import type { MicroBatch, Model } from "./loss.ts";
import { countTargets, lossAndGradients } from "./loss.ts";
import type { Run } from "./run.ts";
import type { UpdateOutcome, Updates } from "./updates.ts";

/** Micro-batches that the device may have before it beside the one that is asked for. */
const batchesAhead = 3;
/** Updates that are read together, at most: those before them are being read meanwhile. */
const readEvery = 8;
/** Updates whose outcome is not known, at most. */
export const mostUnread = 2 * readEvery;
/** They are read after that time even if they are fewer: slow ones are told of one by one. */
const readEveryMs = 250;

/** What is updated, and with what. */
export type UpdatedModel = Model & Pick<Run, "optimizer" | "lossScale">;

/** An update that the device was asked for. */
interface Asked {
  readonly step: number;
  readonly learningRate: number;
  readonly tokens: number;
  readonly decision: tf.Tensor1D;
}

/** The gradient of a batch under way. */
interface Sum {
  loss: tf.Scalar;
  grads: tf.Tensor[];
  tokens: number;
}

/** @param now milliseconds from any origin */
export function deferredUpdates(run: UpdatedModel, deferred: DeferredUpdates, now: () => number): Updates {
  const ahead: Promise<void>[] = [];
  let asked: Asked[] = [];
  let reading: Promise<UpdateOutcome[]> | null = null;
  let readMs = now();

  const read = (): void => {
    if (asked.length === 0) return;
    reading = readOutcomes(asked, run);
    // Should something else fail first, nobody awaits it any more.
    reading.catch(() => undefined);
    asked = [];
    readMs = now();
  };
  const awaited = async (): Promise<UpdateOutcome[]> => {
    const outcomes = (await reading) ?? [];
    reading = null;
    return outcomes;
  };

  return {
    async make(batches, { learningRate, clip, step }, signal) {
      const sum = await sumGradients(run, batches, signal, async () => {
        const reached = deferred.reached();
        reached.catch(() => undefined);
        ahead.push(reached);
        if (ahead.length > batchesAhead) await ahead.shift();
      });
      if (!sum) return false;
      const { loss, grads, tokens } = sum;
      if (tokens === 0) throw new Error(`invariant: step ${step} has no token to learn from`);
      const lossScale = run.lossScale.variable;
      const decision = run.optimizer.defer(deferred, loss, grads, { learningRate, clip, tokens, lossScale });
      tf.dispose([loss, ...grads]);
      asked.push({ step, learningRate, tokens, decision });
      return true;
    },
    async take(all) {
      if (all) {
        const before = await awaited();
        read();
        return [...before, ...(await awaited())];
      }
      if (asked.length < readEvery && now() - readMs < readEveryMs) return [];
      const before = await awaited();
      read();
      return before;
    },
    async close() {
      tf.dispose(asked.map(({ decision }) => decision));
      await reading?.catch(() => undefined);
    },
  };
}

/** @param added called after each micro-batch. @returns null when `signal` was aborted before all was asked for */
async function sumGradients(
  run: UpdatedModel,
  batches: AsyncIterable<MicroBatch>,
  signal: AbortSignal,
  added: () => Promise<void>,
): Promise<Sum | null> {
  let sum = null as Sum | null;
  let isWhole = false;
  try {
    for await (const batch of batches) {
      // A turn of the event loop: an abort arrives as a message, and computing leaves no room for one.
      await setImmediate();
      if (signal.aborted) return null;
      const scale = run.lossScale.isDynamic ? run.lossScale.factor() : undefined;
      const part = lossAndGradients(run, batch, scale);
      scale?.dispose();
      const before = sum as Sum | null;
      const [loss, ...grads] = addGradients(before ? [before.loss, ...before.grads] : [], [part.loss, ...part.grads]);
      sum = { loss: loss as tf.Scalar, grads, tokens: (before?.tokens ?? 0) + countTargets(batch.targets) };
      await added();
    }
    isWhole = true;
    return sum;
  } finally {
    if (!isWhole && sum) tf.dispose([sum.loss, ...sum.grads]);
  }
}

async function readOutcomes(asked: readonly Asked[], { optimizer, lossScale }: UpdatedModel): Promise<UpdateOutcome[]> {
  const decisions = asked.map(({ decision }) => decision);
  const all = tf.stack(decisions);
  tf.dispose(decisions);
  const values = (await all.data()) as Float32Array;
  all.dispose();
  return asked.map(({ step, learningRate, tokens }, i) => {
    const at = i * decisionSize;
    const { lossSum, gradNorm, applied, lossScale: scale } = readDecision(values.subarray(at, at + decisionSize));
    const loss = lossSum / tokens;
    if (applied) return { step, learningRate, loss, gradNorm, overflowedAt: null };
    optimizer.countSkipped();
    const overflowed = lossScale.isDynamic && Number.isFinite(loss) && scale > 1;
    // What a device makes of an infinity afterwards need not be one.
    const norm = Number.isFinite(gradNorm) ? Infinity : gradNorm;
    return { step, learningRate, loss, gradNorm: norm, overflowedAt: overflowed ? scale : null };
  });
}
