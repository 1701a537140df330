/**
 * G_zero along width: the source stands in a corner of the target and the rest adds nothing. `one_zero_per_path`
 * (default) puts exactly one zero block on each way from a new neuron to the output: new intermediate neurons and
 * heads have random inputs and zero outputs, new hidden dimensions zero inputs and random readers; after one step
 * everything has a gradient. `eq14` is the paper's formula: whatever reads old inputs into new outputs is zero, the
 * rest random.
 *
 * Norms see a mean square that is d / D of the source's. `epsilon: "config"` corrects it by gains times sqrt(d / D)
 * and eps d / D in the target's config; `"weights"` leaves eps alone and multiplies what writes the residual stream by
 * sqrt(D / d), gains by sqrt(d / D) (the final one by d / D where tied); `"none"` is the paper: gains only, exact but
 * for eps, and reported as not preserving.
 * Source: arXiv 2405.15319, A.4 eq 12-19; the analysis of both rules and of eps: method section 1.3.
 */
import type { JsonObject } from "../manifest.ts";
import type { Fills } from "./matrix.ts";
import { noiseSchema, readNoise, withNoise } from "./noise.ts";
import type { OperatorRequest } from "./operator.ts";
import { optionalWord, readParams } from "./params.ts";
import { toleranceOf, type GrowthPlan, type GrowthSource, type Preservation } from "./plan.ts";
import { makeWidthMaps, planWidth, zeroFills } from "./width.ts";
import { readWidthTarget, targetSchema } from "./widthTarget.ts";

const rules = ["one_zero_per_path", "eq14"] as const;
const epsilons = ["config", "weights", "none"] as const;

const fields = {
  target: targetSchema,
  rule: { description: "Which blocks of a grown matrix are zero.", enum: [...rules], default: "one_zero_per_path" },
  epsilon: {
    description: "How the norms' epsilon is corrected: in the target's config, in its weights, or (the paper) not.",
    enum: [...epsilons],
    default: "config",
  },
  noise: noiseSchema,
} satisfies Record<string, JsonObject>;

/** JSON Schema of the parameters. */
export const zeroWidthSchema: JsonObject = { type: "object", additionalProperties: false, properties: fields };

const randomFills: Fills = { oldRowNewColumn: "random", newRowOldColumn: "random", newRowNewColumn: "random" };
const eq14Fills: Fills = { ...randomFills, newRowOldColumn: "zero" };

const fillsOfRule = {
  one_zero_per_path: { readers: randomFills, writers: zeroFills },
  eq14: { readers: eq14Fills, writers: eq14Fills },
} as const;

/** @throws invalid_request, unprocessable */
export function planZeroWidth(source: GrowthSource, request: OperatorRequest): GrowthPlan {
  const params = readParams(request.params, `${request.pointer}/params`, Object.keys(fields));
  const noise = readNoise(params);
  const rule = optionalWord(params, "rule", rules, "one_zero_per_path");
  const epsilon = optionalWord(params, "epsilon", epsilons, "config");
  const { config } = source;
  const target = readWidthTarget(config, request, params, true);
  const share = config.hiddenSize / target.hiddenSize;
  const constant = (value: number): Float64Array | null =>
    share === 1 ? null : new Float64Array(target.hiddenSize).fill(value);
  const folded = epsilon === "weights";
  const plan = planWidth(source, {
    operator: "zero",
    targetConfig: epsilon === "config" ? { ...target, rmsNormEps: config.rmsNormEps * share } : target,
    maps: makeWidthMaps(config, target, { padded: true, seed: request.seed }),
    split: "even",
    writerScale: folded ? constant(Math.sqrt(1 / share)) : null,
    normScale: constant(Math.sqrt(share)),
    finalNormScale: constant(folded && config.tieWordEmbeddings ? share : Math.sqrt(share)),
    fills: fillsOfRule[rule],
    seed: request.seed,
    preservesFunction: preservation(source, epsilon === "none" && share !== 1),
    warnings: rule === "eq14" ? ["eq14: new gate and up rows start at zero and get no gradient in the first step"] : [],
  });
  return withNoise(source, plan, noise, request.seed);
}

function preservation(source: GrowthSource, approximate: boolean): Preservation {
  if (approximate) {
    return { value: false, reason: "the norms' epsilon counts D / d as much: exact only without it", tolerance: null };
  }
  return { value: true, reason: "every path through new neurons passes a zero", tolerance: toleranceOf(source) };
}
