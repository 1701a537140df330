/**
 * AdamW's state through a growth: for each target tensor, how its two moments come from the source's. A tensor that is
 * a copy takes its moments along; new weights start from zero; a weight whose gradient is c times its origin's takes
 * c m and c^2 v, which width growth by equal shares gives exactly (`widthMoments`). Where copies get gradients that are
 * no multiple of their origin's (uneven splits, noise, learned maps), nothing is invented: the plan says why not.
 * Source: method section 1.2, "Optimizer moments under even tile n"; derivation for any copies in `widthMoments`.
 */
import type { TensorSpec } from "../architectures/architecture.ts";
import { elementCount } from "../dtype.ts";
import { growVector, matrixRows, type Fills } from "./matrix.ts";
import type { AxisMap } from "./axes.ts";
import { impossible } from "./params.ts";
import type { BuildRecipe, GrowthPlan, Recipe } from "./plan.ts";
import { buildRows } from "./rows.ts";

/** Recipes whose inputs are the source's first, or second, moments under the names of their weights. */
export interface Moments {
  readonly first: Recipe;
  readonly second: Recipe;
}

/** @returns copies for a copy; for anything else a refusal. */
export function momentsOf(recipe: Recipe): Moments | string {
  if (recipe.type === "copy") return { first: recipe, second: recipe };
  return "its values are no rescaled copies, so no optimizer state belongs to them";
}

/** @returns the moments of new weights. */
export function zeroMoments(spec: Pick<TensorSpec, "shape">): Moments {
  const count = elementCount(spec.shape);
  const zeros: BuildRecipe = { type: "build", inputs: [], build: () => new Float32Array(count), zero: true };
  return { first: zeros, second: zeros };
}

export interface WidthMomentChoice {
  /** Name of the source's tensor. */
  readonly source: string;
  /** Map of the tensor's rows, or of its only axis. */
  readonly rows: AxisMap;
  /** Null for a vector. */
  readonly columns: AxisMap | null;
  /** Which axis the tensor writes to: rows, for the embedding columns; null for the head, which writes logits. */
  readonly writes: "rows" | "columns" | null;
  /** Factor of the weights along that axis; null for 1. */
  readonly scale: Float64Array | null;
}

const nothing: Fills = { oldRowNewColumn: "zero", newRowOldColumn: "zero", newRowNewColumn: "zero" };

/**
 * Moments of a tensor that width growth has copied along its axes, its readers divided evenly. With m_j the copies of
 * output j and s_j its factor, each copy's gradient is g / (s_j m_j): readers divided by m_j pass back a share of
 * 1 / m_j, and W' = s W has gradient g / s. It holds for norms (s_j their factor), for tied tables, and for single
 * copies among new neurons (m = 1); at the head all of the logits' gradient arrives. By induction from the head down,
 * the residual stream's gradient at copy j is 1 / (s_j m_j) of its origin's, through the norm as well, because
 * s_j^2 = D / (d m_j) (or s = 1 and new dimensions zero).
 */
export function widthMoments(choice: WidthMomentChoice): Moments {
  const { rows, columns, writes, scale } = choice;
  const axis = writes === "columns" ? columns! : rows;
  const factor = Float64Array.from(axis.origin, (from, index) =>
    from < 0 || writes === null ? 1 : 1 / ((scale === null ? 1 : scale[index]!) * axis.copies[from]!),
  );
  const recipe = (power: number): BuildRecipe => {
    const scaled = factor.map((value) => value ** power);
    const inputs = [choice.source];
    if (columns === null) {
      return { type: "build", inputs, build: ([values]) => growVector(values!, rows, scaled, 0) };
    }
    const [rowScale, columnScale] = writes === "columns" ? [null, scaled] : [scaled, null];
    const rest = { split: null, fills: nothing, std: 0, name: choice.source, seed: 0 };
    const grown = matrixRows({ rows, columns, rowScale, columnScale, ...rest });
    return { type: "build", inputs, rows: grown, build: ([values]) => buildRows(grown, values!) };
  };
  return { first: recipe(1), second: recipe(2) };
}

/**
 * @returns for each target tensor how its moments are made
 * @throws unprocessable naming `optimizer_state` and the first tensor without a rule
 */
export function plannedMoments(plan: GrowthPlan): readonly Moments[] {
  return plan.tensors.map(({ info, moments }) => {
    if (typeof moments !== "string") return moments;
    throw impossible("/optimizer_state", `cannot be grown to ${info.name}: ${moments}`);
  });
}
