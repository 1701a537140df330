/**
 * From a checkpoint's bytes to tensors of the active tfjs backend, one tensor at a time, so that memory never
 * holds more than the model and one tensor of it. Everything is computed in float32: F16 and BF16 widen
 * exactly. Names stay those of Hugging Face, so nothing is converted.
 */
import * as tf from "@tensorflow/tfjs";
import { maskOfNames, maskedValues } from "../../ops/growth/index.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import { readTensors } from "../checkpoint/tensorReader.ts";

/**
 * Loads the tensors of a checkpoint, or those for which `only` says so. While a random growth is faded in they are
 * masked, which is what such a model computes with.
 * @returns float32 tensors under their Hugging Face names; `disposeWeights` gives them back
 * @throws checkpoint_corrupt, source_changed
 */
export async function loadWeights(
  checkpoint: ResolvedCheckpoint,
  options: { only?: (name: string) => boolean } = {},
): Promise<Map<string, tf.Tensor>> {
  const { only } = options;
  const wanted = checkpoint.manifest.tensors.filter(({ name }) => only === undefined || only(name));
  const maskOf = maskOfNames(checkpoint.manifest);
  const weights = new Map<string, tf.Tensor>();
  try {
    for await (const { info, values } of readTensors(checkpoint.blobs, wanted)) {
      const mask = maskOf(info.name);
      const computed = mask === null ? values : maskedValues(values, info.shape, mask);
      weights.set(info.name, tf.tensor(computed, [...info.shape], "float32"));
    }
  } catch (error) {
    disposeWeights(weights);
    throw error;
  }
  return weights;
}

/** Disposes of all tensors of a map. */
export function disposeWeights(weights: ReadonlyMap<string, tf.Tensor>): void {
  for (const tensor of weights.values()) tensor.dispose();
}
