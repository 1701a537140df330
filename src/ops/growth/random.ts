/**
 * G_random: new parameters are drawn as a new model's are, and a mask fades them in from 0 to 1 over the optimizer's
 * updates after the growth, so that the function is kept at first. Depth appends new layers, or puts them at given
 * positions; width adds new neurons on every axis. The mask is state of the grown checkpoint (mask.ts says what it
 * means); when the ramp is over a plain Llama is left.
 *
 * Where a mask on outputs cannot silence a new query head, because it reads an old key/value head, its columns of the
 * attention output start at zero.
 * Source: arXiv 2405.15319, A.5 eq 20-36; MSG, arXiv 2305.02869 (method section 1.4).
 */
import { initializeTensor } from "../architectures/initializeTensor.ts";
import { tensorName } from "../architectures/llama.ts";
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import type { GrowthMask, JsonObject } from "../manifest.ts";
import { readFactor } from "./depth.ts";
import type { Fills } from "./matrix.ts";
import { zeroMoments } from "./moments.ts";
import type { GrowthOperator, OperatorRequest } from "./operator.ts";
import { given, malformed, optionalInteger, readParams, type UnreadParams } from "./params.ts";
import { assemblePlan, tensorsByName, toleranceOf, type GrowthPlan, type GrowthSource } from "./plan.ts";
import { positionsSchema, readPositions } from "./positions.ts";
import { makeWidthMaps, planWidth } from "./width.ts";
import { readWidthTarget, targetSchema } from "./widthTarget.ts";

/** The code's grow_step: 10.5 billion tokens of the paper's batch. */
const defaultRampSteps = 5000;
const maxRampSteps = 1_000_000_000;

const rampSchema = {
  description: "Optimizer updates over which the mask goes from 0 to 1, linearly.",
  ...{ type: "integer", minimum: 1, maximum: maxRampSteps, default: defaultRampSteps },
} satisfies JsonObject;

const depthFields = {
  positions: {
    ...positionsSchema,
    description: "Target layers, from 0, that are new. With a factor instead, they are the last ones.",
  },
  ramp_steps: rampSchema,
} satisfies Record<string, JsonObject>;

const widthFields = {
  target: targetSchema,
  ramp_steps: rampSchema,
  stages: {
    description: "1 fades in all at once; 3 first intermediate neurons, then hidden ones, then heads, ramp_steps each.",
    enum: [1, 3],
    default: 1,
  },
} satisfies Record<string, JsonObject>;

function readRamp(params: UnreadParams): number {
  return optionalInteger(params, "ramp_steps", 1, maxRampSteps) ?? defaultRampSteps;
}

function planRandomDepth(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(depthFields));
  const rampSteps = readRamp(params);
  const numLayers = source.config.numHiddenLayers;
  const asked = given(params, "positions") !== undefined;
  const newLayers = asked
    ? readPositions(numLayers, request, params)
    : appended(numLayers, readFactor(request, numLayers));
  const targetConfig = { ...source.config, numHiddenLayers: numLayers + newLayers.length };
  const isNew = new Set(newLayers);
  let old = 0;
  const layerMap = Array.from({ length: targetConfig.numHiddenLayers }, (_, layer) =>
    isNew.has(layer) ? null : old++,
  );
  const known = tensorsByName(source);
  const mask: GrowthMask = { step: 0, rampSteps, stages: 1, layers: newLayers, sourceSizes: null };
  return assemblePlan(source, {
    operator: "random",
    axis: "depth",
    ...{ targetConfig, layerMap, newLayers },
    preservesFunction: { value: true, reason: depthReason(newLayers.length, rampSteps), tolerance: 0 },
    warnings: newLayers.length === 0 ? ["the target has as many layers as the source"] : [],
    growthMask: newLayers.length === 0 ? null : mask,
    recipeOf(spec) {
      const origin = spec.layer === null ? null : layerMap[spec.layer]!;
      if (spec.layer === null || origin !== null) {
        const name = tensorName(spec.row, origin);
        return { recipe: { type: "copy", source: name }, dtype: known.get(name)!.dtype };
      }
      const build = (): Float32Array => initializeTensor(targetConfig, spec.name, request.seed);
      const { dtype } = known.get(tensorName(spec.row, 0))!;
      return { recipe: { type: "build", inputs: [], build }, dtype, moments: zeroMoments(spec) };
    },
  });
}

function appended(numLayers: number, factor: number): number[] {
  return Array.from({ length: numLayers * (factor - 1) }, (_, index) => numLayers + index);
}

function depthReason(count: number, rampSteps: number): string {
  if (count === 0) return "every layer is kept as it is";
  return `new layers are masked to 0 and faded in over ${rampSteps} updates of the optimizer`;
}

const allRandom: Fills = { oldRowNewColumn: "random", newRowOldColumn: "random", newRowNewColumn: "random" };

function planRandomWidth(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(widthFields));
  const rampSteps = readRamp(params);
  const stages = given(params, "stages") ?? 1;
  if (stages !== 1 && stages !== 3) throw malformed(`${params.pointer}/stages`, stages, "1 or 3");
  const { config } = source;
  const target = readWidthTarget(config, request, params, true);
  const grows = sizesOf.some((key) => target[key] > config[key]);
  const updates = `${rampSteps} updates of the optimizer${stages === 3 ? " a stage" : ""}`;
  const reason = grows ? `new neurons are masked to 0 and faded in over ${updates}` : "every size is kept as it is";
  return planWidth(source, {
    operator: "random",
    targetConfig: target,
    maps: makeWidthMaps(config, target, { padded: true, seed: null }),
    split: "even",
    ...{ writerScale: null, normScale: null, finalNormScale: null },
    fills: { readers: allRandom, writers: allRandom, embedding: allRandom },
    seed: request.seed,
    preservesFunction: { value: true, reason, tolerance: toleranceOf(source) },
    warnings: [],
    growthMask: grows ? { step: 0, rampSteps, stages, layers: [], sourceSizes: sizes(config) } : null,
  });
}

const sizesOf = ["hiddenSize", "intermediateSize", "numAttentionHeads", "numKeyValueHeads", "headDim"] as const;

function sizes(config: LlamaConfig): NonNullable<GrowthMask["sourceSizes"]> {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim } = config;
  return { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim };
}

export const random: GrowthOperator = {
  name: "random",
  summary: "Adds randomly initialised layers or neurons, masked out at first and faded in while training.",
  axes: ["depth", "width"],
  paramsSchema: {
    depth: { type: "object", additionalProperties: false, properties: depthFields },
    width: { type: "object", additionalProperties: false, properties: widthFields },
  },
  preservesFunction: { depth: "always", width: "always" },
  reference: {
    title: "Stacking Your Transformers: A Closer Look at Model Growth for Efficient LLM Pre-Training, G_random",
    url: "https://arxiv.org/abs/2405.15319",
  },
  plan: (source, request) => (request.axis === "depth" ? planRandomDepth : planRandomWidth)(source, request),
};
