/**
 * One fused operation as tfjs sees it: computed directly when no gradient is wanted (decoding calls hundreds of
 * these per token), through `tf.customGrad` when a tape is running. Unlike `differentiable` of the reference
 * kernels, the forward pass may hand tensors of its own to the backward pass.
 */
import * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";

export interface FusedForward<Y extends tf.Tensor> {
  readonly value: Y;
  /** Further tensors for the backward pass; may hold `value`. Disposed of when no gradient is wanted. */
  readonly kept?: readonly tf.Tensor[];
}

export interface FusedOperation<Y extends tf.Tensor> {
  /** Differentiated. */
  readonly inputs: readonly tf.Tensor[];
  /** Needed by the backward pass as they are: ids, tables. */
  readonly constants?: readonly tf.Tensor[];
  forward(wantGradient: boolean): FusedForward<Y>;
  /** @param saved inputs, constants, kept. @returns one gradient for each input. */
  backward(dy: Y, saved: readonly tf.Tensor[]): tf.Tensor[];
}

export function runFused<Y extends tf.Tensor>(operation: FusedOperation<Y>): Y {
  const { inputs, constants = [] } = operation;
  if (!tf.engine().isTapeOn()) {
    const { value, kept = [] } = operation.forward(false);
    for (const tensor of kept) if (tensor !== value) tensor.dispose();
    return value;
  }
  const run = tf.customGrad<Y>((...args) => {
    const save = args[args.length - 1] as (tensors: tf.Tensor[]) => void;
    const { value, kept = [] } = operation.forward(true);
    save([...inputs, ...constants, ...kept]);
    return { value, gradFunc: (dy, saved) => operation.backward(dy, saved) };
  });
  return run(...inputs);
}

/** @returns tensor `index` of what was saved. */
export function saved<T extends tf.Tensor>(tensors: readonly tf.Tensor[], index: number): T {
  const tensor = tensors[index];
  invariant(tensor, `the tape saved ${tensors.length} tensors, wanted number ${index}`);
  return tensor as T;
}

/** Fails on a tensor whose shape is not the one the operation needs. */
export function requireShape(name: string, tensor: tf.Tensor, wanted: readonly number[]): void {
  const same = tensor.shape.length === wanted.length && tensor.shape.every((size, i) => size === wanted[i]);
  invariant(same, `${name} has shape [${tensor.shape.join()}], wanted [${wanted.join()}]`);
}
