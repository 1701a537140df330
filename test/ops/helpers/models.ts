/** Small models with seeded weights in which every tensor matters, and the execution of a plan in memory. */
import { expectedTensors, tensorSpecs } from "../../../src/ops/architectures/llama.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { elementCount } from "../../../src/ops/dtype.ts";
import { maskedValues, tensorMask } from "../../../src/ops/growth/mask.ts";
import { plannedMoments } from "../../../src/ops/growth/moments.ts";
import type { GrowthPlan, GrowthSource } from "../../../src/ops/growth/plan.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import type { Weights } from "./referenceForward.ts";

/** The toy of method section "Status": 26,656 parameters. */
export const toyConfig: LlamaConfig = {
  vocabSize: 53,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 8,
  maxPositionEmbeddings: 128,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeScaling: null,
  tieWordEmbeddings: false,
  attentionBias: false,
  mlpBias: false,
  initializerRange: 0.02,
  bosTokenId: 1,
  eosTokenIds: [2],
};

export const toyIds: readonly number[] = [1, 17, 4, 33, 52, 8, 8, 21, 40, 2, 11, 29];

export interface Toy {
  readonly source: GrowthSource;
  readonly weights: Map<string, Float32Array>;
}

/** @returns a model of that config with seeded weights large enough that every path shows in the logits. */
export function makeToy(change: Partial<LlamaConfig> = {}, seed = 1): Toy {
  const config: LlamaConfig = { ...toyConfig, ...change };
  const weights = new Map<string, Float32Array>();
  for (const { name, row, shape } of tensorSpecs(config)) {
    const stream = seededStream(seed, name);
    const values = new Float32Array(elementCount(shape));
    if (row.kind === "norm")
      weights.set(
        name,
        values.map(() => stream.normal(1, 0.2)),
      );
    else if (row.kind === "bias") weights.set(name, stream.fillNormal(values, 0.3));
    else weights.set(name, stream.fillNormal(values, row.kind === "embedding" ? 1 : 1 / Math.sqrt(shape.at(-1)!)));
  }
  return { source: { config, tensors: expectedTensors(config) }, weights };
}

/** @returns the same weights in double precision; recipes given these compute in double precision too. */
export function inDouble(weights: Weights): Map<string, Float64Array> {
  return new Map([...weights].map(([name, values]) => [name, Float64Array.from(values)]));
}

/** @returns the target's weights: what a growth job does, in memory, in the precision of the source's. */
export function execute<Values extends Float32Array | Float64Array>(
  plan: GrowthPlan,
  weights: ReadonlyMap<string, Values>,
): Map<string, Values> {
  const made = new Map<string, Values>();
  for (const { info, recipe } of plan.tensors) {
    const read = (name: string): Values => {
      const values = weights.get(name);
      if (!values) throw new Error(`no tensor ${name}`);
      return values;
    };
    // A recipe's declared type is float32; what it really asks of its inputs is to be alike.
    const inputs = (): readonly Float32Array[] =>
      recipe.type === "build" ? (recipe.inputs.map(read) as Float32Array[]) : [];
    const values = recipe.type === "copy" ? read(recipe.source) : (recipe.build(inputs()) as Values);
    if (values.length !== elementCount(info.shape)) throw new Error(`${info.name} has ${values.length} values`);
    made.set(info.name, values);
  }
  return made;
}

/** @returns the weights that a grown model computes with before it is trained: the target's, masked where it is. */
export function computedWeights<Values extends Float32Array | Float64Array>(
  plan: GrowthPlan,
  weights: ReadonlyMap<string, Values>,
): Map<string, Values> {
  const { growthMask } = plan;
  if (!growthMask) return new Map(weights);
  const maskOf = tensorMask(plan.targetConfig, growthMask);
  const specs = new Map(tensorSpecs(plan.targetConfig).map((spec) => [spec.name, spec]));
  return new Map(
    [...weights].map(([name, values]) => {
      const spec = specs.get(name)!;
      const mask = maskOf(spec);
      return [name, mask === null ? values : maskedValues(values, spec.shape, mask)];
    }),
  );
}

/** @returns the target's moments: what a growth job does with `optimizer_state: "grow"`, in memory. */
export function executeMoments<Values extends Float32Array | Float64Array>(
  plan: GrowthPlan,
  which: "first" | "second",
  moments: ReadonlyMap<string, Values>,
): Map<string, Values> {
  const tensors = plannedMoments(plan).map((each, index) => ({ ...plan.tensors[index]!, recipe: each[which] }));
  return execute({ ...plan, tensors }, moments);
}
