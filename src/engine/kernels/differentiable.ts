/**
 * A function with a gradient of its own, in the one form that all kernels here use: what the backward pass
 * needs is saved by the tape, whatever `tf.tidy` does between the two passes, and handed back to it. It
 * exists because `tf.customGrad` is loosely typed and because a closed-over tensor may be disposed of before
 * the gradient is taken; nothing more is meant by it.
 */
import * as tf from "@tensorflow/tfjs";

/**
 * @param inputs tensors that the result is differentiated in
 * @param saved tensors that `backward` needs; they stay in memory until it has run
 * @param forward computes the result; its ops are not recorded
 * @param backward from the gradient of the result and the saved tensors to one gradient for each input, of
 *   that input's shape
 */
export function differentiable<Y extends tf.Tensor>(
  inputs: readonly tf.Tensor[],
  saved: readonly tf.Tensor[],
  forward: () => Y,
  backward: (dy: Y, saved: readonly tf.Tensor[]) => tf.Tensor[],
): Y {
  const run = tf.customGrad<Y>((...args) => {
    const save = args[args.length - 1] as (tensors: tf.Tensor[]) => void;
    save([...saved]);
    // tfjs runs gradients outside any scope of their own: without one, their temporaries live until the last.
    return { value: forward(), gradFunc: (dy, kept) => tf.tidy(() => backward(dy, kept)) };
  });
  return run(...inputs);
}

/** @returns entry `index` of what the tape saved. */
export function savedAt<T extends tf.Tensor>(saved: readonly tf.Tensor[], index: number): T {
  const tensor = saved[index];
  if (!tensor) throw new Error(`invariant: the tape saved ${saved.length} tensors, wanted number ${index}`);
  return tensor as T;
}
