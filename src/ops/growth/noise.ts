/**
 * Noise that breaks function preservation, and the symmetry of copies, on purpose: every matrix becomes
 * (1 - alpha) W + alpha eps, with eps drawn as a new model's weights are: N(0, 2 / (5 fan_in)), and for the two
 * matrices that write to the residual stream N(0, 1 / (fan_in l^2)). Whole matrices, old neurons and new alike;
 * norms and biases are left alone. It wraps the recipes of any plan, so every operator offers it as `params.noise`.
 * Source: arXiv 2405.15319, section 5.2 and I.2 eq 53-54 (method section 1.6); the paper's alpha is 0.2.
 */
import type { TensorSpec } from "../architectures/architecture.ts";
import { tensorSpecs } from "../architectures/llama.ts";
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import type { JsonObject } from "../manifest.ts";
import { seededStream } from "../rng.ts";
import { identityMap } from "./axes.ts";
import { optionalNumber, type UnreadParams } from "./params.ts";
import { replan, type BuildRecipe, type GrowthPlan, type GrowthSource, type Recipe } from "./plan.ts";
import { buildRows, type MatrixRows, type WriteRow } from "./rows.ts";

/** JSON Schema of `params.noise`. */
export const noiseSchema: JsonObject = {
  description: "Share of noise mixed into every matrix, 0 for none. Above 0 the function is not preserved.",
  type: "number",
  minimum: 0,
  maximum: 1,
  default: 0,
};

/** @returns `params.noise`, 0 where not given. @throws invalid_request */
export function readNoise(params: UnreadParams): number {
  return optionalNumber(params, "noise", 0, 1, 0);
}

/** @returns the standard deviation of the noise for a matrix of the target. */
export function noiseStd(config: LlamaConfig, spec: TensorSpec): number {
  const fanIn = spec.shape.at(-1)!;
  const writesResidual = spec.row.role === "down" || spec.row.role === "output";
  return writesResidual ? 1 / (Math.sqrt(fanIn) * config.numHiddenLayers) : Math.sqrt(2 / (5 * fanIn));
}

/** @returns the plan with noise in its matrices; the plan itself where alpha is 0. */
export function withNoise(source: GrowthSource, plan: GrowthPlan, alpha: number, seed: number): GrowthPlan {
  if (alpha === 0) return plan;
  const specs = tensorSpecs(plan.targetConfig);
  const recipes = plan.tensors.map((tensor, index): Recipe => {
    const spec = specs[index]!;
    if (spec.row.kind === "norm" || spec.row.kind === "bias") return tensor.recipe;
    const noise = { name: spec.name, std: noiseStd(plan.targetConfig, spec), alpha, seed };
    return noisy(tensor.recipe, noise, spec.shape as readonly [number, number]);
  });
  const reason = `noise of ${alpha} was asked for`;
  return replan(source, plan, recipes, { value: false, reason, tolerance: null });
}

interface Noise {
  readonly name: string;
  readonly std: number;
  readonly alpha: number;
  readonly seed: number;
}

function noisy(recipe: Recipe, noise: Noise, [height, width]: readonly [number, number]): BuildRecipe {
  const inputs = recipe.type === "copy" ? [recipe.source] : recipe.inputs;
  const clean = recipe.type === "copy" ? wholeRows(height, width) : recipe.rows;
  if (clean === undefined) {
    const build = (recipe as BuildRecipe).build;
    const mixed = (values: readonly Float32Array[]): Float32Array =>
      buildRows(noisyRows(wholeRows(height, width), noise), build(values));
    return { type: "build", inputs, build: mixed };
  }
  const rows = noisyRows(clean, noise);
  return { type: "build", inputs, rows, build: ([values]) => buildRows(rows, values!) };
}

/** Every row as it is. */
function wholeRows(height: number, width: number): MatrixRows {
  const start = (): WriteRow => (out, at, source, base) => out.set(source.subarray(base, base + width), at);
  return { origin: identityMap(height).origin, sourceWidth: width, width, start, program: () => null };
}

/** The rows with noise in them, drawn row after row. */
function noisyRows(clean: MatrixRows, { name, std, alpha, seed }: Noise): MatrixRows {
  const start = (): WriteRow => {
    const stream = seededStream(seed, `noise ${name}`);
    const write = clean.start();
    return (out, at, source, base, row) => {
      write(out, at, source, base, row);
      for (let i = at; i < at + clean.width; i += 1) out[i] = (1 - alpha) * out[i]! + alpha * stream.normal(0, std);
    };
  };
  return { ...clean, start, program: () => null };
}
