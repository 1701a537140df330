/**
 * One optimizer update: gradients summed over micro-batches, divided by the tokens that counted, clipped by
 * their global norm, applied. Nothing is changed until all of it is known to be finite, so a run that
 * diverges, or that is asked to stop in the middle of a batch, still holds the state of the update before.
 */
import { setImmediate } from "node:timers/promises";
import * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../ops/errors.ts";
import type { AdamW } from "./adamw.ts";
import type { MicroBatch, Model } from "./loss.ts";
import { countTargets, lossAndGradients } from "./loss.ts";

/** Keeps clipping from dividing by zero; torch's `clip_grad_norm_` uses the same. */
const clipEps = 1e-6;

export interface StepSettings {
  readonly learningRate: number;
  /** Largest global norm; null for none. */
  readonly clip: number | null;
  /** Number of this update within the job, from 1; for messages. */
  readonly step: number;
}

export interface StepOutcome {
  /** Mean over the tokens of the batch, natural log. */
  readonly loss: number;
  /** Global norm of the mean gradient, before clipping. */
  readonly gradNorm: number;
  /** Tokens that counted. */
  readonly tokens: number;
}

/**
 * @param batches all micro-batches of the update
 * @returns null when `signal` was aborted before the update was made; then nothing has changed
 * @throws diverged when loss or gradient is not finite; then nothing has changed either
 */
export async function trainStep(
  model: Model,
  optimizer: AdamW,
  batches: AsyncIterable<MicroBatch>,
  settings: StepSettings,
  signal: AbortSignal,
): Promise<StepOutcome | null> {
  let grads: tf.Tensor[] = [];
  let lossTotal = 0;
  let tokens = 0;
  try {
    for await (const batch of batches) {
      // A turn of the event loop: an abort arrives as a message, and computing leaves no room for one.
      await setImmediate();
      if (signal.aborted) return null;
      const part = lossAndGradients(model, batch);
      grads = added(grads, part.grads);
      lossTotal += (await part.loss.data())[0] as number;
      part.loss.dispose();
      tokens += countTargets(batch.targets);
    }
    if (tokens === 0) throw new Error(`invariant: step ${settings.step} has no token to learn from`);
    const loss = lossTotal / tokens;
    const gradNorm = Math.sqrt(await model.kernels.sumOfSquares(grads)) / tokens;
    assertFinite(settings.step, loss, gradNorm);
    const clipFactor = settings.clip === null ? 1 : Math.min(1, settings.clip / (gradNorm + clipEps));
    optimizer.update(grads, settings.learningRate, clipFactor / tokens);
    return { loss, gradNorm, tokens };
  } finally {
    tf.dispose(grads);
  }
}

/** @returns sums of the two lists, which are disposed of; the second where the first is empty. */
function added(sums: tf.Tensor[], grads: tf.Tensor[]): tf.Tensor[] {
  if (sums.length === 0) return grads;
  return sums.map((sum, i) => {
    const grad = grads[i] as tf.Tensor;
    const next = tf.add(sum, grad);
    tf.dispose([sum, grad]);
    return next;
  });
}

function assertFinite(step: number, loss: number, gradNorm: number): void {
  if (Number.isFinite(loss) && Number.isFinite(gradNorm)) return;
  const what = Number.isFinite(loss) ? `the gradient's norm is ${gradNorm}` : `the loss is ${loss}`;
  const advice = "lower the learning rate, lengthen the warm-up or clip the gradient";
  throw new CodedError("diverged", `training diverged at step ${step}: ${what}; ${advice}`, {
    details: { step, loss: String(loss), gradNorm: String(gradNorm) },
  });
}
