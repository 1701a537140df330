/**
 * A training in the middle of its course: the weights as variables, the optimizer, the data stream and the
 * counts. This is all that `resume.ts` writes and reads back; the trainer moves it forward.
 */
import * as tf from "@tensorflow/tfjs";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import type { Kernels } from "../kernels/kernels.ts";
import type { AdamW } from "./adamw.ts";
import type { DeriveWeights } from "./loss.ts";
import type { LossScale } from "./lossScale.ts";

/** What has been done so far, in this job. */
export interface Progress {
  /** Optimizer updates. */
  step: number;
  tokens: number;
  /** Tokens of the dataset's stream consumed, skipped ones included. */
  position: number;
  lastLoss: number | null;
  lastValidationLoss: number | null;
  /** Step after which that validation was made, or null. */
  lastValidationStep: number | null;
}

export interface Run {
  readonly kernels: Kernels;
  readonly config: LlamaConfig;
  /** What changes, in the order of the checkpoint's manifest: all sums over tensors go in this order. */
  readonly weights: ReadonlyMap<string, tf.Variable>;
  /** Given where `weights` are not the model's own but what those are made of. */
  readonly derive?: DeriveWeights;
  /** Tensors of the model that do not change, by name. */
  readonly frozen: ReadonlyMap<string, tf.Tensor>;
  /** Every tensor of the checkpoint, in its order: those that do not change keep these references. */
  readonly refs: readonly TensorRef[];
  readonly optimizer: AdamW;
  readonly lossScale: LossScale;
  /** Sequences computed at once; the order of float32 sums depends on it. */
  readonly microSequences: number;
  readonly progress: Progress;
}

export function disposeRun(run: Run): void {
  run.optimizer.dispose();
  run.lossScale.dispose();
  tf.dispose([...run.weights.values(), ...run.frozen.values()]);
}
