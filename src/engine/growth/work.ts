/** What a growth is asked for, and the tensors that this means: the same list in every thread that plans it. */
import {
  plannedMoments,
  type GrowthPlan,
  type GrowthPlanRequest,
  type Moments,
  type Recipe,
} from "../../ops/growth/index.ts";
import { invariant } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { TensorInfo, TensorRef } from "../../ops/tensor.ts";
import type { TensorOrder } from "./buildTensor.ts";
import { isBuilt, type PlannedInfo } from "./targetTensors.ts";

/** Builds the tensors of a growth that are not copies. Plain data: it crosses process and thread boundaries. */
export interface GrowWork {
  readonly source: ResolvedCheckpoint;
  readonly request: GrowthPlanRequest;
  readonly blobDir: string;
  /** Grow the source's moments too. */
  readonly growOptimizer?: boolean;
}

/** One list of target tensors with the source's tensors that it is made from. */
export interface TensorSet {
  readonly kind: "weights" | "first" | "second";
  readonly planned: readonly PlannedInfo[];
  readonly sources: readonly TensorRef[];
}

/** @returns the weights, and both moments where they are grown as well. */
export function tensorSets(plan: GrowthPlan, source: ResolvedCheckpoint, growOptimizer: boolean): TensorSet[] {
  const weights: TensorSet = { kind: "weights", planned: plan.tensors, sources: source.manifest.tensors };
  if (!growOptimizer) return [weights];
  const { optimizer } = source.manifest;
  invariant(optimizer, "the request was checked: the source has moments to grow");
  const recipes = plannedMoments(plan);
  const momentsOf = (which: keyof Moments): PlannedInfo[] => {
    const zeros = new Map<string, string>();
    return plan.tensors.map(({ info }, index) => {
      const recipe = withZeroTwin(recipes[index]![which], info, zeros);
      return { info: { ...info, dtype: "F32" as const }, recipe };
    });
  };
  return [
    weights,
    { kind: "first", planned: momentsOf("first"), sources: optimizer.firstMoments },
    { kind: "second", planned: momentsOf("second"), sources: optimizer.secondMoments },
  ];
}

/** All zeros of one shape are the bytes of the first. */
function withZeroTwin(recipe: Recipe, info: TensorInfo, first: Map<string, string>): Recipe {
  if (recipe.type === "copy" || recipe.zero !== true) return recipe;
  const key = info.shape.join("x");
  const twin = first.get(key);
  if (twin === undefined) first.set(key, info.name);
  return twin === undefined ? recipe : { ...recipe, sameAs: twin };
}

/** @returns what has to be built, in the order of the sets and of the plan. */
export function tensorOrders(sets: readonly TensorSet[], source: ResolvedCheckpoint): TensorOrder[] {
  return sets.flatMap(({ planned, sources }) => {
    const byName = new Map(sources.map((tensor) => [tensor.name, tensor]));
    return planned.flatMap(({ info, recipe }) =>
      isBuilt(recipe) ? [{ info, recipe, sources: byName, blobs: source.blobs }] : [],
    );
  });
}
