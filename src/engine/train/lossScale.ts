/**
 * The loss scale of a training as it lies on the device (`kernels/deferred.ts` says how it moves), and as a number in
 * the run's state, so that a resumed run goes on with it. Without loss scaling it is 1 and stays so.
 *
 * The loss here is the sum over the tokens of a micro-batch, so a token's gradient is not made small by the number of
 * others: the scale begins at 2^12, not at the 2^16 that is usual for means.
 */
import * as tf from "@tensorflow/tfjs";
import type { LossScaleState } from "../../ops/manifest.ts";

const firstScale = 2 ** 12;

export class LossScale {
  /** [lossScaleSize]: scale, updates since it changed, updates skipped since this object was made. */
  readonly variable: tf.Variable;
  readonly isDynamic: boolean;

  /** @param from the state to go on from; null for a fresh start */
  constructor(isDynamic: boolean, from: LossScaleState | null) {
    this.isDynamic = isDynamic;
    const { scale, goodUpdates } = from ?? { scale: firstScale, goodUpdates: 0 };
    const values = isDynamic ? [scale, goodUpdates, 0] : [1, 0, 0];
    this.variable = tf.tidy(() => tf.variable(tf.tensor1d(values), false));
  }

  /** @returns a scalar to begin the backward pass with; the caller disposes of it */
  factor(): tf.Scalar {
    return tf.tidy(() => tf.reshape(tf.slice(this.variable, [0], [1]), []));
  }

  /** @returns what a resumed run needs; null where there is no scaling. Waits for the device. */
  async state(): Promise<LossScaleState | null> {
    if (!this.isDynamic) return null;
    const [scale = 1, goodUpdates = 0] = (await this.variable.data()) as Float32Array;
    return { scale, goodUpdates };
  }

  dispose(): void {
    this.variable.dispose();
  }
}
