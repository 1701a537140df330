/**
 * What a training computes with where that is not simply what it changes: tensors that are kept as they are stand
 * beside the trained ones, as constants without gradient, and while a random growth is faded in its tensors are
 * multiplied by the mask, whose value follows the updates made (ops/growth/mask.ts).
 */
import * as tf from "@tensorflow/tfjs";
import { countParameters } from "../../ops/architectures/llama.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import { maskAfter, maskOfNames, type TensorMask } from "../../ops/growth/index.ts";
import type { GrowthMask } from "../../ops/manifest.ts";
import { differentiable } from "../kernels/differentiable.ts";
import type { Weights } from "../model/llama.ts";
import type { DeriveWeights } from "./loss.ts";
import type { Progress } from "./run.ts";

export interface DerivedModel {
  readonly config: LlamaConfig;
  /** Tensors that do not change; none where all are trained. */
  readonly frozen: Weights;
  /** As the checkpoint has it that the training began from; null for a plain model. */
  readonly mask: GrowthMask | null;
  /** Read at every use: the mask goes with its updates. */
  readonly progress: Pick<Progress, "step">;
}

/** @returns the model's weights as a function of what is trained; null where they are the same. */
export function deriveModel({ config, frozen, mask, progress }: DerivedModel): DeriveWeights | null {
  if (frozen.size === 0 && mask === null) return null;
  return (trained) => {
    const growthMask = maskAfter(config, mask, progress.step);
    const maskOf = maskOfNames({ config, growthMask });
    return new Map(
      [...trained, ...frozen].map(([name, tensor]) => {
        const factors = maskOf(name);
        return [name, factors === null ? tensor : masked(tensor, factors)];
      }),
    );
  };
}

/** @returns bytes of the tensors that a mask adds to a training: the masked weights, and a gradient of those. */
export function maskedBytes(config: LlamaConfig): number {
  return 2 * 4 * countParameters(config).total;
}

/** Rows or columns times their factors; the gradient is the gradient times the same. */
function masked(tensor: tf.Tensor, { axis, factors }: TensorMask): tf.Tensor {
  const shape = tensor.rank < 2 ? [factors.length] : axis === "rows" ? [factors.length, 1] : [1, factors.length];
  const product = (x: tf.Tensor): tf.Tensor => tf.mul(x, tf.tensor(factors, shape, "float32"));
  return differentiable(
    [tensor],
    [],
    () => product(tensor),
    (dy) => [product(dy)],
  );
}
