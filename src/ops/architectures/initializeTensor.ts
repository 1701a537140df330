/**
 * First values of a model that is trained from nothing, one tensor at a time, each from its own random stream: the
 * rule of the paper's code base (TinyLlama). Embedding and linears are N(0, 2 / (5 fan_in)) and the MLP's down
 * projection N(0, 1 / (fan_in l^2)), with fan_in the last axis and l the number of layers; norms are 1, biases 0. The
 * attention output is a linear like the others there: only the down projection is made smaller with depth. The head
 * is a linear too. `initializer_range` is not used.
 * Source: lit_gpt/model.py of TinyLlama, `_init_weights` (method section 3.2).
 */
import { elementCount } from "../dtype.ts";
import { CodedError } from "../errors.ts";
import { seededStream } from "../rng.ts";
import type { TensorSpec } from "./architecture.ts";
import { findSpec } from "./llama.ts";
import type { LlamaConfig } from "./llamaConfig.ts";

/** @returns the standard deviation of a tensor's first values; 0 for norms and biases, which are constant. */
export function initialStd(config: LlamaConfig, spec: TensorSpec): number {
  const { kind, role } = spec.row;
  if (kind === "norm" || kind === "bias") return 0;
  const fanIn = spec.shape.at(-1)!;
  return role === "down" ? 1 / Math.sqrt(fanIn) / config.numHiddenLayers : Math.sqrt(2 / (5 * fanIn));
}

/**
 * @param seed an integer in [0, 2^53)
 * @returns the tensor's values, row-major; the same for equal arguments on every machine
 * @throws not_found for a name that no tensor of the model has
 */
export function initializeTensor(config: LlamaConfig, name: string, seed: number): Float32Array {
  const spec = findSpec(config, name);
  if (!spec) throw new CodedError("not_found", `a Llama of this config has no tensor ${name}`);
  const values = new Float32Array(elementCount(spec.shape));
  if (spec.row.kind === "norm") return values.fill(1);
  if (spec.row.kind === "bias") return values;
  return seededStream(seed, name).fillNormal(values, initialStd(config, spec));
}
