/**
 * One optimizer update: gradients summed over micro-batches, divided by the tokens that counted, clipped by
 * their global norm, applied. Nothing is changed until all of it is known to be finite, so a run that
 * diverges, or that is asked to stop in the middle of a batch, still holds the state of the update before.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../ops/errors.ts";
import type { AdamW } from "./adamw.ts";
import type { GradientSource } from "./gradients.ts";
import { localGradients } from "./gradients.ts";
import type { MicroBatch, Model } from "./loss.ts";

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
 * @param gradients computes with the model's weights; this thread unless given
 * @returns null when `signal` was aborted before the update was made; then nothing has changed
 * @throws diverged when loss or gradient is not finite; then nothing has changed either
 */
export async function trainStep(
  model: Model,
  optimizer: AdamW,
  batches: AsyncIterable<MicroBatch>,
  settings: StepSettings,
  signal: AbortSignal,
  gradients: GradientSource = localGradients(model),
): Promise<StepOutcome | null> {
  const sum = await gradients.sum(batches, signal);
  if (!sum) return null;
  const { grads, tokens } = sum;
  try {
    if (tokens === 0) throw new Error(`invariant: step ${settings.step} has no token to learn from`);
    const loss = sum.loss / tokens;
    const gradNorm = Math.sqrt(await model.kernels.sumOfSquares(grads)) / tokens;
    assertFinite(settings.step, loss, gradNorm);
    const clipFactor = settings.clip === null ? 1 : Math.min(1, settings.clip / (gradNorm + clipEps));
    optimizer.update(grads, settings.learningRate, clipFactor / tokens);
    return { loss, gradNorm, tokens };
  } finally {
    tf.dispose([...grads]);
  }
}

/** @throws diverged when loss or norm of an update is not finite, naming its step */
export function assertFinite(step: number, loss: number, gradNorm: number): void {
  if (Number.isFinite(loss) && Number.isFinite(gradNorm)) return;
  const what = Number.isFinite(loss) ? `the gradient's norm is ${gradNorm}` : `the loss is ${loss}`;
  const advice = "lower the learning rate, lengthen the warm-up or clip the gradient";
  throw new CodedError("diverged", `training diverged at step ${step}: ${what}; ${advice}`, {
    details: { step, loss: String(loss), gradNorm: String(gradNorm) },
  });
}
