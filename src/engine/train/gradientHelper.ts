/**
 * A helper thread's side of data-parallel training: its own copy of the weights on its own heap, a micro-batch in,
 * loss and gradient out. It decides nothing and keeps nothing else.
 */
import * as tf from "@tensorflow/tfjs";
import type { Kernels } from "../kernels/kernels.ts";
import type { HeapTransfer } from "../kernels/wasm/transfer.ts";
import type { HelperStart, ToHelper } from "./gradientProtocol.ts";
import { lossAndGradients } from "./loss.ts";

/** @returns what to call for each micro-batch; it gives the summed loss. */
export function gradientHelper(
  { config, tensors, weights, gradient }: HelperStart,
  kernels: Kernels,
  transfer: HeapTransfer,
): (request: ToHelper) => Promise<number> {
  const shared = { weights: new Float32Array(weights), gradient: new Float32Array(gradient) };
  const variables = new Map(
    tensors.map(({ name, shape }) => [name, tf.tidy(() => tf.variable(tf.zeros([...shape])))] as const),
  );
  const model = { kernels, config, weights: variables };
  return async ({ batch, refresh }) => {
    if (refresh) transfer.copyIn(shared.weights, [...variables.values()]);
    const { loss, grads } = lossAndGradients(model, batch);
    transfer.copyOut(grads, shared.gradient);
    const value = (await loss.data())[0] as number;
    tf.dispose([loss, ...grads]);
    return value;
  };
}
