/**
 * The loss of next-token prediction, its gradient, and its mean over held-out text. Sums stay sums until the
 * end and are divided once by the number of tokens that counted, so that the mean over a batch is exact
 * however the batch was cut into micro-batches.
 */
import * as tf from "@tensorflow/tfjs";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import { CodedError } from "../../ops/errors.ts";
import type { Batch } from "../data/loader.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { lossSum } from "../model/llama.ts";
import type { Weights } from "../model/llama.ts";
import { freeTapeAsUsed } from "./tape.ts";

/** Sequences side by side: ids and the id wanted at each position (-1: does not count). */
export interface MicroBatch {
  readonly ids: Int32Array;
  readonly targets: Int32Array;
  readonly sequences: number;
  readonly length: number;
}

/** The model's weights as a differentiable function of other tensors. */
export type DeriveWeights = (trained: Weights) => Weights;

/** What is computed with. */
export interface Model {
  readonly kernels: Kernels;
  readonly config: LlamaConfig;
  /** What is trained: the model's weights, or what `derive` makes them of. */
  readonly weights: Weights;
  readonly derive?: DeriveWeights;
}

/**
 * A batch of a dataset for a model.
 * @throws unprocessable when it holds an id that the model has no embedding for
 */
export function toMicroBatch(batch: Batch, { vocabSize }: LlamaConfig): MicroBatch {
  const { ids, targets, sequences, sequenceLength: length, position } = batch;
  for (const list of [ids, targets]) {
    const id = list.find((candidate) => candidate >= vocabSize);
    if (id === undefined) continue;
    const wanted = `the model's vocab_size is ${vocabSize}: it belongs to another tokenizer`;
    throw new CodedError("unprocessable", `the dataset holds token id ${id} before position ${position}; ${wanted}`);
  }
  return { ids, targets, sequences, length };
}

/** @returns the positions that count. */
export function countTargets(targets: Int32Array): number {
  let count = 0;
  for (const target of targets) if (target >= 0) count++;
  return count;
}

/**
 * @param scale multiplies the gradient from its beginning on; 1 unless given
 * @returns the summed loss and its gradient in every weight, in the order of the map; the caller disposes of
 *   all of them
 */
export function lossAndGradients(
  model: Model,
  batch: MicroBatch,
  scale?: tf.Scalar,
): { loss: tf.Scalar; grads: tf.Tensor[] } {
  const { kernels, config, weights, derive } = model;
  const names = [...weights.keys()];
  return tf.tidy(() => {
    const compute = (...tensors: tf.Tensor[]): tf.Scalar => {
      const named = new Map(names.map((name, i) => [name, tensors[i] as tf.Tensor]));
      const used = derive ? derive(named) : named;
      const loss = lossSum(kernels, config, used, batch.ids, batch.targets, batch.sequences, batch.length);
      freeTapeAsUsed();
      return loss;
    };
    const { value, grads } = tf.valueAndGrads(compute)([...weights.values()], scale?.clone());
    return { loss: value as tf.Scalar, grads };
  });
}

/** @returns the summed loss, without gradients. */
export async function batchLoss(model: Model, batch: MicroBatch): Promise<number> {
  const { kernels, config, weights, derive } = model;
  const loss = tf.tidy(() => {
    const used = derive ? derive(weights) : weights;
    return lossSum(kernels, config, used, batch.ids, batch.targets, batch.sequences, batch.length);
  });
  const value = (await loss.data())[0] as number;
  loss.dispose();
  return value;
}
