/**
 * G_zero: new parameters are placed so that they add nothing at first. Along depth new layers end in zeros; along
 * width new neurons do, or start in them. The two have their own files.
 */
import type { GrowthOperator } from "./operator.ts";
import { planZeroDepth, zeroDepthSchema } from "./zeroDepth.ts";
import { planZeroWidth, zeroWidthSchema } from "./zeroWidth.ts";

export const zero: GrowthOperator = {
  name: "zero",
  summary: "Adds layers or neurons whose outputs start at zero, so that the function is preserved.",
  axes: ["depth", "width"],
  paramsSchema: { depth: zeroDepthSchema, width: zeroWidthSchema },
  preservesFunction: { depth: "depends", width: "depends" },
  reference: {
    title: "Stacking Your Transformers: A Closer Look at Model Growth for Efficient LLM Pre-Training, G_zero",
    url: "https://arxiv.org/abs/2405.15319",
  },
  plan: (source, request) => (request.axis === "depth" ? planZeroDepth : planZeroWidth)(source, request),
};
