/**
 * What a growth operator is: a name, what it can grow, a JSON Schema of its parameters and a pure function from a
 * source to a plan. An operator never sees a tensor's values: recipes do, when the plan is executed.
 */
import type { JsonObject } from "../manifest.ts";
import type { GrowthAxis, GrowthPlan, GrowthSource } from "./plan.ts";

/** What is asked of one operator. Fields are as in the request body; `pointer` is where they stand in it. */
export interface OperatorRequest {
  readonly axis: GrowthAxis;
  readonly factor?: number;
  /** As it came; the operator reads it field by field. */
  readonly params?: unknown;
  /** Names the random streams of operators that draw; an integer in [0, 2^53). */
  readonly seed: number;
  /** Prefix of JSON pointers in errors: empty for the body itself, `/params/steps/0` for a step. */
  readonly pointer: string;
}

export type PreservesFunction = "always" | "never" | "depends";

export interface GrowthOperator {
  readonly name: string;
  /** One sentence. */
  readonly summary: string;
  readonly axes: readonly GrowthAxis[];
  /** JSON Schema (2020-12) of `params`, per axis. */
  readonly paramsSchema: Readonly<Partial<Record<GrowthAxis, JsonObject>>>;
  readonly preservesFunction: Readonly<Partial<Record<GrowthAxis, PreservesFunction>>>;
  readonly reference: { readonly title: string; readonly url: string };
  /**
   * @throws invalid_request for a malformed parameter, unprocessable for one that is impossible for this source;
   *   both name the field
   */
  plan(source: GrowthSource, request: OperatorRequest): GrowthPlan;
}
