/**
 * G_learn: the target's weights are a learned linear function of the source's (LiGO). The plan says what the function
 * looks like and how it is to be fitted; with no steps it is also what is done, and along depth alone that is G_stack
 * by reference. Depth and width are learned together: either axis takes `num_hidden_layers`. The fit trains the grown
 * model, so this operator is a growth of its own and never a step of a composition.
 * Source: arXiv 2405.15319, A.1.2, A.6; arXiv 2303.00980 (method section 1.5).
 */
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import { tensorName, tensorSpecs } from "../architectures/llama.ts";
import type { JsonObject } from "../manifest.ts";
import { readFactor } from "./depth.ts";
import { makeExpansion } from "./expansion.ts";
import { maxTargetLayers, repeatedLayers } from "./layers.ts";
import { fitFields, readFitSettings } from "./learnSettings.ts";
import { expansionRecipe, initialValues, type ExpansionValues } from "./materialize.ts";
import type { GrowthOperator, OperatorRequest } from "./operator.ts";
import { fieldError, impossible, optionalInteger, readParams, type UnreadParams } from "./params.ts";
import { assemblePlan, replan, tensorsByName, type GrowthPlan, type GrowthSource } from "./plan.ts";
import { readWidthTarget, targetSchema } from "./widthTarget.ts";

const layersField = {
  description: "Layers of the target.",
  type: "integer",
  minimum: 1,
  maximum: maxTargetLayers,
};

const depthFields = { num_hidden_layers: layersField, ...fitFields } satisfies Record<string, JsonObject>;
const widthFields = { target: targetSchema, ...depthFields } satisfies Record<string, JsonObject>;

function planLearn(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  if (request.pointer !== "") {
    const detail = "is learn, which trains what it grows: it is no step; give both sizes in one growth";
    throw impossible(`${request.pointer}/operator`, detail);
  }
  const fields = request.axis === "depth" ? depthFields : widthFields;
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(fields));
  const target = readTarget(source.config, request, params);
  const settings = readFitSettings(target, params);
  const expansion = makeExpansion(source.config, target, request.seed);
  if (expansion.parameters.length === 0) {
    const detail = "makes the target as large as the source: nothing is learned";
    throw impossible(`${request.pointer}/${request.factor === undefined ? "params" : "factor"}`, detail);
  }
  const layers = source.config.numHiddenLayers;
  const layerMap = Array.from({ length: target.numHiddenLayers }, (_, index) => index % layers);
  const dtypes = tensorsByName(source);
  const values = initialValues(expansion);
  const fitted = settings.steps > 0;
  return assemblePlan(source, {
    operator: "learn",
    axis: request.axis,
    targetConfig: target,
    layerMap,
    newLayers: repeatedLayers(layerMap),
    preservesFunction: { value: false, reason: "weights are learned mixtures of the source's", tolerance: null },
    warnings: fitted ? [] : ["no steps: the expansion stays as it starts"],
    recipeOf(spec) {
      const like = tensorName(spec.row, spec.layer === null ? null : spec.layer % layers);
      return { recipe: expansionRecipe(expansion, spec, values, !fitted), dtype: dtypes.get(like)!.dtype };
    },
    ...(fitted ? { fit: { expansion, settings } } : {}),
  });
}

/** @returns the plan of a fitted growth with recipes that use what was learned. */
export function learnedPlan(source: GrowthSource, plan: GrowthPlan, values: ExpansionValues): GrowthPlan {
  const { fit } = plan;
  if (fit === undefined) return plan;
  const specs = tensorSpecs(plan.targetConfig);
  const recipes = specs.map((spec) => expansionRecipe(fit.expansion, spec, values, false));
  return replan(source, plan, recipes, plan.preservesFunction);
}

function readTarget(source: LlamaConfig, request: OperatorRequest, params: UnreadParams): LlamaConfig {
  const name = "num_hidden_layers";
  const asked = optionalInteger(params, name, 1, maxTargetLayers);
  if (asked !== undefined && asked < source.numHiddenLayers) {
    const detail = `is ${asked}; the source has ${source.numHiddenLayers}, and growth never shrinks`;
    throw impossible(`${params.pointer}/${name}`, detail);
  }
  if (request.axis === "width") {
    const wide = readWidthTarget(source, request, params, false);
    return { ...wide, numHiddenLayers: asked ?? source.numHiddenLayers };
  }
  if (asked === undefined) {
    return { ...source, numHiddenLayers: source.numHiddenLayers * readFactor(request, source.numHiddenLayers) };
  }
  if (request.factor !== undefined) {
    throw fieldError("invalid_request", `${request.pointer}/factor`, `excludes params.${name}`);
  }
  return { ...source, numHiddenLayers: asked };
}

export const learn: GrowthOperator = {
  name: "learn",
  summary: "Learns how to mix layers and widen weights (LiGO), by training the grown model for a few steps.",
  axes: ["depth", "width"],
  paramsSchema: {
    depth: { type: "object", additionalProperties: false, properties: depthFields },
    width: { type: "object", additionalProperties: false, properties: widthFields },
  },
  preservesFunction: { depth: "never", width: "never" },
  reference: {
    title: "Learning to Grow Pretrained Models for Efficient Transformer Training",
    url: "https://arxiv.org/abs/2303.00980",
  },
  plan: planLearn,
};
