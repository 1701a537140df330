/**
 * What the thread that trains and those that compute gradients for it say to each other. Bulk goes through shared
 * memory: the weights of all, one gradient for each helper, both float32 in the order of `tensors`. A helper is
 * asked for one micro-batch at a time, and its gradient is read before it is asked again.
 */
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { MicroBatch } from "./loss.ts";

/** Given to a helper when it starts. */
export interface HelperStart {
  readonly config: LlamaConfig;
  /** In the order of the weights' map. */
  readonly tensors: readonly { readonly name: string; readonly shape: readonly number[] }[];
  readonly weights: SharedArrayBuffer;
  readonly gradient: SharedArrayBuffer;
}

export interface ToHelper {
  readonly batch: MicroBatch;
  /** The weights have changed since this helper was asked last. */
  readonly refresh: boolean;
}

export type FromHelper =
  | { readonly type: "ready" }
  /** The summed loss; the gradient lies in the helper's shared memory. */
  | { readonly type: "done"; readonly loss: number }
  | { readonly type: "failed"; readonly error: ErrorRecord };
