/** From a plan to references: where the bytes of each target tensor lie. Nothing is read or computed. */
import { invariant } from "../../ops/errors.ts";
import type { Recipe } from "../../ops/growth/index.ts";
import type { TensorInfo, TensorRef } from "../../ops/tensor.ts";

/** A tensor of the target and how it is made. */
export interface PlannedInfo {
  readonly info: TensorInfo;
  readonly recipe: Recipe;
}

/** @returns whether a recipe makes bytes of its own, rather than referring to others. */
export function isBuilt(recipe: Recipe): recipe is Recipe & { type: "build" } {
  return recipe.type === "build" && recipe.sameAs === undefined;
}

/** @returns every tensor of the target where its bytes lie: copies at the source, twins at the tensor they repeat. */
export function targetTensors(
  planned: readonly PlannedInfo[],
  source: readonly TensorRef[],
  built: readonly TensorRef[],
): TensorRef[] {
  const sources = new Map(source.map((tensor) => [tensor.name, tensor]));
  const targets = new Map(built.map((tensor) => [tensor.name, tensor]));
  for (const { info, recipe } of planned) {
    if (isBuilt(recipe)) continue;
    const origin = recipe.type === "copy" ? sources.get(recipe.source) : targets.get(recipe.sameAs ?? "");
    invariant(origin, `the plan's ${info.name} has an origin`);
    targets.set(info.name, { ...origin, name: info.name });
  }
  return planned.map(({ info }) => {
    const tensor = targets.get(info.name);
    invariant(tensor, `the plan's ${info.name} was made`);
    return tensor;
  });
}
