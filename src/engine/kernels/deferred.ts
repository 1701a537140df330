/**
 * The part of the kernel seam for devices that compute behind the caller's back: an update that is decided where the
 * numbers are. Loss and norm stay on the device, the clipping factor is made there, and an update whose loss or
 * gradient is not finite changes nothing; the caller reads what was decided when it likes to, many updates at once.
 *
 * Where gradients may be scaled (`scalesLoss`), three numbers on the device say by how much: the scale, a power of
 * two; the updates made since it last changed; and how many updates were skipped. A gradient that overflows at a
 * scale above 1 skips its update and halves the scale; after many updates without overflow the scale doubles.
 * (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.)
 */
import type * as tf from "@tensorflow/tfjs";

/** Elements of a decision and, as tensors, of the loss scale's state. */
export const decisionSize = 8;
export const lossScaleSize = 3;

/** Updates without overflow after which the scale doubles. */
export const updatesUntilGrowth = 2000;
/** Beyond it float32 sums of squares could overflow by the scale alone. */
export const largestLossScale = 2 ** 24;

export interface UpdateTerms {
  /** Tokens of the batch: the gradient is divided by them. */
  readonly tokens: number;
  /** Largest norm of the mean gradient; null for none. */
  readonly clip: number | null;
  /** Number of this update from 1, those counted that were skipped since the scale's state was made. */
  readonly step: number;
  readonly beta1: number;
  readonly beta2: number;
}

export interface DeferredAdamw {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
}

/** A decision as it is read back. */
export interface Decision {
  /** Sum over the batch, natural log. */
  readonly lossSum: number;
  /** Of the mean gradient, without the scale, before clipping. */
  readonly gradNorm: number;
  /** Whether the update was made. */
  readonly applied: boolean;
  /** The loss scale it was made at. */
  readonly lossScale: number;
}

export interface DeferredUpdates {
  /** Whether gradients lose what is too small, or overflow, unless the loss is scaled. */
  readonly scalesLoss: boolean;
  /**
   * Decides on an update, on the device.
   * @param loss scalar: the sum over the batch, unscaled
   * @param grads of that sum, times the scale
   * @param lossScale [lossScaleSize], changed in place
   * @returns [decisionSize], for `adamw` and `readDecision`
   */
  decide(loss: tf.Scalar, grads: readonly tf.Tensor[], terms: UpdateTerms, lossScale: tf.Variable): tf.Tensor1D;
  /** As `Kernels.adamw`, with scale, clipping and bias correction of the decision; nothing where it says so. */
  adamw(
    weight: tf.Variable,
    grad: tf.Tensor,
    m: tf.Variable,
    v: tf.Variable,
    step: DeferredAdamw,
    decision: tf.Tensor1D,
  ): void;
  /** Resolves when the device has done what it was asked for so far. */
  reached(): Promise<void>;
}

/** @param values of a decision, as read back */
export function readDecision(values: Float32Array): Decision {
  const [lossSum = NaN, gradNorm = NaN, , applied, , , lossScale = NaN] = values;
  return { lossSum, gradNorm, applied: applied === 1, lossScale };
}
