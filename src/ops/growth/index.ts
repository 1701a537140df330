/**
 * The registry of growth operators, one line each, and the one way into them: `planGrowth` reads what every request
 * has in common, hands it to the operator and returns its plan. Pure: a plan says what to do, nothing is done.
 */
import type { JsonObject } from "../manifest.ts";
import { composePlans, maxSteps, plannedSource } from "./compose.ts";
import { direct } from "./direct.ts";
import { learn } from "./learn.ts";
import type { GrowthOperator } from "./operator.ts";
import { fieldError, given, impossible, malformed, readParams } from "./params.ts";
import type { GrowthAxis, GrowthPlan, GrowthSource } from "./plan.ts";
import { random } from "./random.ts";
import { zero } from "./zero.ts";

/** By name. */
export const operators: Readonly<Record<string, GrowthOperator>> = Object.freeze({
  direct,
  zero,
  random,
  learn,
});

/**
 * The growth fields of a request body, in its spelling; other fields are not looked at. `params.steps`, a list of
 * { operator, axis, factor?, params? }, stands instead of operator, axis and factor.
 */
export interface GrowthPlanRequest {
  readonly operator?: string;
  readonly axis?: GrowthAxis;
  readonly factor?: number;
  readonly params?: JsonObject;
  /** Default 0. */
  readonly seed?: number;
}

/** @returns every operator, in the order of the registry. */
export function listOperators(): readonly GrowthOperator[] {
  return Object.values(operators);
}

/** @throws invalid_request for a name that no operator has */
export function getOperator(name: unknown, pointer = "/operator"): GrowthOperator {
  const operator = typeof name === "string" && Object.hasOwn(operators, name) ? operators[name] : undefined;
  if (operator) return operator;
  throw malformed(pointer, name, `one of ${Object.keys(operators).join(", ")}`);
}

/**
 * @param source the model to grow; its tensors are those its configuration asks for
 * @returns the whole plan, before any tensor is read
 * @throws invalid_request or unprocessable with `fields` that point into the request body
 */
export function planGrowth(source: GrowthSource, request: GrowthPlanRequest): GrowthPlan {
  const seed = request.seed ?? 0;
  if (!Number.isSafeInteger(seed) || seed < 0) throw malformed("/seed", seed, "an integer in [0, 2^53)");
  if (source.growthMask) {
    const detail = "is still being faded in by an earlier random growth; train it to the end of its ramp first";
    throw impossible("/checkpoint", detail);
  }
  const { params } = request;
  const steps: unknown =
    typeof params === "object" && params !== null ? (params as { steps?: unknown }).steps : undefined;
  // An operator may stand beside `steps` that are no list: then its own fields are what is wrong.
  const composed = Array.isArray(steps) || (steps !== undefined && request.operator === undefined);
  return composed ? planSteps(source, request, seed) : planOne(source, request, seed, "");
}

/** Fields of one growth, not yet looked at. */
type Growth = { readonly [Key in "operator" | "axis" | "factor" | "params"]?: unknown };

function planSteps(source: GrowthSource, request: GrowthPlanRequest, seed: number): GrowthPlan {
  for (const name of ["operator", "axis", "factor"] as const) {
    if (request[name] === undefined) continue;
    throw fieldError("invalid_request", `/${name}`, "excludes params.steps, where each step has its own");
  }
  const steps = given(readParams(request.params, "/params", ["steps"]), "steps");
  if (!Array.isArray(steps) || steps.length < 1 || steps.length > maxSteps) {
    throw malformed("/params/steps", steps, `a list of 1 to ${maxSteps} steps`);
  }
  let plan: GrowthPlan | null = null;
  for (const [index, step] of steps.entries()) {
    const pointer = `/params/steps/${index}`;
    if (plan?.growthMask) {
      throw impossible(`${pointer}/operator`, "follows a random growth, whose mask only the last step can leave");
    }
    const fields = readParams(step ?? null, pointer, ["operator", "axis", "factor", "params"]).value;
    const next: GrowthPlan = planOne(plan === null ? source : plannedSource(plan), fields, seed, pointer);
    plan = plan === null ? next : composePlans(source, plan, next);
  }
  return plan!;
}

function planOne(source: GrowthSource, request: Growth, seed: number, pointer: string): GrowthPlan {
  const operator = getOperator(request.operator, `${pointer}/operator`);
  const axis = operator.axes.find((candidate) => candidate === request.axis);
  if (axis === undefined) throw malformed(`${pointer}/axis`, request.axis, operator.axes.join(" or "));
  const { factor, params } = request;
  if (factor !== undefined && typeof factor !== "number") throw malformed(`${pointer}/factor`, factor, "a number");
  return operator.plan(source, { axis, seed, pointer, params, ...(factor === undefined ? {} : { factor }) });
}

export { isMasked, maskAfter, maskOfNames, maskValues, maskedValues, type TensorMask } from "./mask.ts";
export { plannedMoments, type Moments } from "./moments.ts";
export { learnedPlan } from "./learn.ts";
export type { Expansion, ExpansionParameter, TensorForm, AxisForm } from "./expansion.ts";
export type { ExpansionValues } from "./materialize.ts";
export type { FitSettings } from "./learnSettings.ts";
export type { GrowthOperator, OperatorRequest, PreservesFunction } from "./operator.ts";
export {
  assemblePlan,
  checkPlanLaws,
  type BuildRecipe,
  type CopyRecipe,
  type ExpansionFit,
  type GrowthAxis,
  type GrowthPlan,
  type GrowthSource,
  type PlannedTensor,
  type Preservation,
  type Recipe,
} from "./plan.ts";
export { rowsPerBlock, type ColumnPlaces, type MatrixRows, type RowProgram } from "./rows.ts";
