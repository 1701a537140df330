/**
 * G_direct: new parameters are copies of old ones. Along depth it is G_stack, the paper's best operator: target
 * layer i is source layer i mod l, or whatever another index list says; every tensor is a copy by reference, nothing
 * is rescaled, and the function is not preserved. Along width see directWidth.ts.
 * Source: arXiv 2405.15319, section 3.1, Alg 1, A.3, H.2, H.3 (method sections 1.1, 1.2 and 2).
 */
import { depthProperties, planDepth, readDepthLayers } from "./depth.ts";
import { repeatedLayers } from "./layers.ts";
import { directWidthSchema, planDirectWidth } from "./directWidth.ts";
import { noiseSchema, readNoise, withNoise } from "./noise.ts";
import type { GrowthOperator, OperatorRequest } from "./operator.ts";
import { readParams } from "./params.ts";
import type { GrowthPlan, GrowthSource } from "./plan.ts";

const depthFields = { ...depthProperties, noise: noiseSchema };

function planDirectDepth(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(depthFields));
  const noise = readNoise(params);
  const layers = readDepthLayers(source, request, params, "stack");
  const plan = planDepth(source, { operator: "direct", layers, newLayers: repeatedLayers(layers) });
  return withNoise(source, plan, noise, request.seed);
}

export const direct: GrowthOperator = {
  name: "direct",
  summary: "Copies layers (depth: G_stack and other index lists) or neurons (width), dividing what reads them.",
  axes: ["depth", "width"],
  paramsSchema: {
    depth: { type: "object", additionalProperties: false, properties: depthFields },
    width: directWidthSchema,
  },
  preservesFunction: { depth: "never", width: "depends" },
  reference: {
    title: "Stacking Your Transformers: A Closer Look at Model Growth for Efficient LLM Pre-Training, G_direct",
    url: "https://arxiv.org/abs/2405.15319",
  },
  plan: (source, request) => (request.axis === "depth" ? planDirectDepth : planDirectWidth)(source, request),
};
