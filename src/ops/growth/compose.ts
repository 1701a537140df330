/**
 * Composition: several growths planned as one. Each step plans on what the step before would leave; their recipes are
 * then joined, so that the target is built from the first source alone, in one pass, with nothing rounded or stored in
 * between. A tensor that a later step copies several times is built once and referred to.
 * Source: method section 7, "Useful growth beyond the paper"; invariant 30.
 */
import type { TensorInfo } from "../tensor.ts";
import type { Moments } from "./moments.ts";
import {
  assemblePlan,
  type BuildRecipe,
  type GrowthPlan,
  type GrowthSource,
  type Preservation,
  type Recipe,
} from "./plan.ts";

/** Most steps in one request. */
export const maxSteps = 8;

/** @returns the source that a plan leaves to the next step. */
export function plannedSource(plan: GrowthPlan): GrowthSource {
  return { config: plan.targetConfig, tensors: plan.tensors.map(({ info }) => info) };
}

/** @returns one plan that does `first` and then `second`, which was made for what `first` leaves. */
export function composePlans(source: GrowthSource, first: GrowthPlan, second: GrowthPlan): GrowthPlan {
  const made = new Map(first.tensors.map((tensor) => [tensor.info.name, tensor]));
  const planned = new Map(second.tensors.map((tensor) => [tensor.info.name, tensor]));
  const twins = new Map<string, string>();
  const isNew = new Set(second.newLayers);
  const wasNew = new Set(first.newLayers);
  return assemblePlan(source, {
    operator: "composition",
    axis: first.axis === second.axis ? first.axis : null,
    targetConfig: second.targetConfig,
    layerMap: second.layerMap.map((layer) => (layer === null ? null : first.layerMap[layer]!)),
    newLayers: second.layerMap.flatMap((layer, index) =>
      isNew.has(index) || (layer !== null && wasNew.has(layer)) ? [index] : [],
    ),
    preservesFunction: bothPreserve(first.preservesFunction, second.preservesFunction),
    warnings: [...new Set([...first.warnings, ...second.warnings])],
    growthMask: second.growthMask ?? null,
    recipeOf(spec) {
      const { info, recipe, moments } = planned.get(spec.name)!;
      return {
        recipe: shared(joined(recipe, made), info, originOf(recipe, made), twins),
        dtype: info.dtype,
        moments: joinedMoments(moments, made),
      };
    },
  });
}

/** Two steps preserve the function when both do; the reason is that of whichever decides. */
function bothPreserve(one: Preservation, two: Preservation): Preservation {
  const value = one.value && two.value;
  const deciding = [one, two].filter((each) => each.value === value).map(({ reason }) => reason);
  const tolerance = value ? one.tolerance! + two.tolerance! : null;
  return { value, reason: [...new Set(deciding)].join("; "), tolerance };
}

type Made = ReadonlyMap<string, { readonly recipe: Recipe }>;

/** The moments of a second step in terms of the first step's source; the reason of whichever step has none. */
function joinedMoments(
  moments: Moments | string,
  made: ReadonlyMap<string, { readonly moments: Moments | string }>,
): Moments | string {
  if (typeof moments === "string") return moments;
  const read = inputsOf(moments.first).map((name) => [name, made.get(name)!.moments] as const);
  const missing = read.find(([, each]) => typeof each === "string");
  if (missing !== undefined) return missing[1] as string;
  const madeOf = (which: keyof Moments): Made =>
    new Map(read.map(([name, each]) => [name, { recipe: (each as Moments)[which] }]));
  return {
    first: joined(moments.first, madeOf("first")),
    second: joined(moments.second, madeOf("second")),
  };
}

function inputsOf(recipe: Recipe): readonly string[] {
  return recipe.type === "copy" ? [recipe.source] : recipe.inputs;
}

/** The recipe of a second step in terms of the first step's source. */
function joined(recipe: Recipe, made: Made): Recipe {
  if (recipe.type === "copy") {
    const inner = made.get(recipe.source)!.recipe;
    return inner.type === "copy" ? inner : withoutTwin(inner);
  }
  const inner = recipe.inputs.map((name) => made.get(name)!.recipe);
  const inputs = [...new Set(inner.flatMap((each) => (each.type === "copy" ? [each.source] : each.inputs)))];
  // A build of one source tensor as it is still goes row by row.
  const rows = inner.length === 1 && inner[0]!.type === "copy" ? recipe.rows : undefined;
  return {
    type: "build",
    inputs,
    ...(rows === undefined ? {} : { rows }),
    build(values) {
      const read = (name: string): Float32Array => values[inputs.indexOf(name)]!;
      const mine = inner.map((each) => (each.type === "copy" ? read(each.source) : each.build(each.inputs.map(read))));
      return recipe.build(mine);
    },
  };
}

function withoutTwin(recipe: BuildRecipe): BuildRecipe {
  const { sameAs: _, ...rest } = recipe;
  return rest;
}

/**
 * What bytes a second step's recipe stands for, as a key: the intermediate tensor that it copies, or that one's twin;
 * the twin that it names itself; null where it makes something of its own.
 */
function originOf(recipe: Recipe, made: Made): { readonly key: string | null; readonly twin: string | null } {
  if (recipe.type === "build") return { key: null, twin: recipe.sameAs ?? null };
  const inner = made.get(recipe.source)!.recipe;
  return { key: inner.type === "build" ? (inner.sameAs ?? recipe.source) : null, twin: null };
}

/** Marks a recipe whose bytes an earlier tensor of the target already has. */
function shared(
  recipe: Recipe,
  info: TensorInfo,
  origin: ReturnType<typeof originOf>,
  twins: Map<string, string>,
): Recipe {
  if (recipe.type === "copy") return recipe;
  const twin = origin.twin ?? (origin.key === null ? undefined : twins.get(origin.key));
  if (twin !== undefined) return { ...recipe, sameAs: twin };
  if (origin.key !== null) twins.set(origin.key, info.name);
  return recipe;
}
