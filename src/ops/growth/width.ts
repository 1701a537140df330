/**
 * Width growth as a plan: one pass over the architecture's table in which every tensor is grown along its axes by the
 * maps, scales and fills that an operator chose. Writers to the residual stream (embedding columns, rows of the
 * attention output and of the down projection) are copied and scaled, norms scaled against it, readers (all other
 * input columns) divided among copies. A tensor that no axis changes is a copy by reference.
 * Source: method section 1.2.
 */
import type { TensorKind, TensorRole, TensorSpec } from "../architectures/architecture.ts";
import { initialStd } from "../architectures/initializeTensor.ts";
import { tensorName } from "../architectures/llama.ts";
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import { invariant } from "../errors.ts";
import type { GrowthMask } from "../manifest.ts";
import {
  balancedMap,
  combinedMap,
  headDimMaps,
  headMaps,
  identityMap,
  isIdentity,
  paddedMap,
  type AxisMap,
} from "./axes.ts";
import { growVector, matrixRows, type Fills, type Split } from "./matrix.ts";
import { widthMoments, type Moments } from "./moments.ts";
import { buildRows, type MatrixRows } from "./rows.ts";
import { assemblePlan, tensorsByName, type GrowthPlan, type GrowthSource, type Preservation } from "./plan.ts";

/** The map of every axis that width growth can change, as the tensors have them. */
export interface WidthMaps {
  readonly hidden: AxisMap;
  readonly intermediate: AxisMap;
  readonly queryRows: AxisMap;
  readonly keyRows: AxisMap;
  readonly valueRows: AxisMap;
  readonly outputColumns: AxisMap;
}

export interface WidthChoice {
  readonly operator: string;
  readonly targetConfig: LlamaConfig;
  readonly maps: WidthMaps;
  readonly split: Split;
  /** Per hidden index: factor of whatever writes it. Null for 1. */
  readonly writerScale: Float64Array | null;
  /** Per hidden index: factor of the layers' norms, and of the final one. Null for 1. */
  readonly normScale: Float64Array | null;
  readonly finalNormScale: Float64Array | null;
  /** What stands where a linear has no source values. */
  readonly fills: { readonly readers: Fills; readonly writers: Fills; readonly embedding?: Fills };
  readonly seed: number;
  readonly preservesFunction: Preservation;
  readonly warnings: readonly string[];
  /** Why the moments of grown tensors are not those of `widthMoments`; absent where they are. */
  readonly noMoments?: string | undefined;
  readonly growthMask?: GrowthMask | null;
}

export const zeroFills: Fills = { oldRowNewColumn: "zero", newRowOldColumn: "zero", newRowNewColumn: "zero" };

export interface WidthMapOptions {
  /** New indices are new (zero or random) instead of copies. */
  readonly padded: boolean;
  /** Chooses which indices are copied once more where the target is no multiple; null for the first ones. */
  readonly seed: number | null;
  /** Given instead of the usual map of the hidden axis. */
  readonly hidden?: AxisMap;
}

/** @returns the maps from source to target, whose sizes were checked. */
export function makeWidthMaps(source: LlamaConfig, target: LlamaConfig, options: WidthMapOptions): WidthMaps {
  const { padded, seed } = options;
  const map = (from: number, to: number, axis: string): AxisMap =>
    padded ? paddedMap(from, to) : balancedMap(from, to, seed, axis);
  const heads = headMaps(
    { queryHeads: source.numAttentionHeads, keyValueHeads: source.numKeyValueHeads },
    { queryHeads: target.numAttentionHeads, keyValueHeads: target.numKeyValueHeads },
    padded,
  );
  invariant(heads !== null, "head counts were checked when the target was read");
  const dims = headDimMaps(source.headDim, target.headDim / source.headDim, padded);
  return {
    hidden: options.hidden ?? map(source.hiddenSize, target.hiddenSize, "hidden"),
    intermediate: map(source.intermediateSize, target.intermediateSize, "intermediate"),
    queryRows: combinedMap(heads.query, dims.query),
    keyRows: combinedMap(heads.keyValue, dims.key),
    valueRows: combinedMap(heads.keyValue, dims.value),
    outputColumns: combinedMap(heads.output, dims.value),
  };
}

/** @returns the whole plan of a width growth. */
export function planWidth(source: GrowthSource, choice: WidthChoice): GrowthPlan {
  const layers = Array.from({ length: source.config.numHiddenLayers }, (_, index) => index);
  const dtypes = tensorsByName(source);
  const grower = makeGrower(source.config, choice);
  return assemblePlan(source, {
    operator: choice.operator,
    axis: "width",
    targetConfig: choice.targetConfig,
    layerMap: layers,
    newLayers: [],
    preservesFunction: choice.preservesFunction,
    warnings: choice.warnings,
    growthMask: choice.growthMask ?? null,
    recipeOf(spec) {
      const name = tensorName(spec.row, spec.layer);
      const { dtype } = dtypes.get(name)!;
      const grown = grower(spec);
      if (grown === null) return { recipe: { type: "copy", source: name }, dtype };
      const { rows, grow, moments } = grown;
      const build = ([values]: readonly Float32Array[]): Float32Array => grow(values!);
      return { recipe: { type: "build", inputs: [name], build, ...(rows ? { rows } : {}) }, dtype, moments };
    },
  });
}

interface Grown {
  readonly grow: (source: Float32Array) => Float32Array;
  /** The same by rows; none of a vector. */
  readonly rows?: MatrixRows;
  readonly moments: Moments | string;
}

function makeGrower(source: LlamaConfig, choice: WidthChoice): (spec: TensorSpec) => Grown | null {
  const vocab = identityMap(source.vocabSize);
  const queryFactor = choice.targetConfig.headDim / source.headDim;
  const queryRows = choice.maps.queryRows.origin.length;
  const queryScale = queryFactor === 1 ? null : new Float64Array(queryRows).fill(Math.sqrt(queryFactor));
  return (spec) => {
    const { kind, role } = spec.row;
    const rows = kind === "embedding" || kind === "head" ? vocab : rowsOf(role, choice.maps);
    const rowScale = writes(role) ? choice.writerScale : role === "query" ? queryScale : null;
    if (kind === "norm" || kind === "bias") {
      const scale = kind === "bias" ? rowScale : role === "finalNorm" ? choice.finalNormScale : choice.normScale;
      const fresh = kind === "norm" ? 1 : 0;
      if (unchanged([rows], [scale])) return null;
      const rule = { source: spec.name, rows, columns: null, writes: "rows", scale } as const;
      const moments = choice.noMoments ?? widthMoments(rule);
      return { grow: (values) => growVector(values, rows, scale, fresh), moments };
    }
    const columns = columnsOf(role, choice.maps);
    const columnScale = kind === "embedding" ? choice.writerScale : null;
    if (unchanged([rows, columns], [rowScale, columnScale])) return null;
    const writesTo = kind === "head" ? null : kind === "embedding" ? "columns" : "rows";
    const scale = kind === "embedding" ? columnScale : rowScale;
    const grown = matrixRows({
      ...{ rows, columns, rowScale, columnScale },
      split: kind === "embedding" ? null : choice.split,
      fills: fillsOf(kind, role, choice),
      std: initialStd(choice.targetConfig, spec),
      name: spec.name,
      seed: choice.seed,
    });
    return {
      grow: (values) => buildRows(grown, values),
      rows: grown,
      moments: choice.noMoments ?? widthMoments({ source: spec.name, rows, columns, writes: writesTo, scale }),
    };
  };
}

function unchanged(maps: readonly AxisMap[], scales: readonly (Float64Array | null)[]): boolean {
  return maps.every(isIdentity) && scales.every((scale) => scale === null);
}

/** Whether a linear's output, or the embedding, goes into the residual stream. */
function writes(role: TensorRole): boolean {
  return role === "output" || role === "down";
}

function rowsOf(role: TensorRole, maps: WidthMaps): AxisMap {
  switch (role) {
    case "query":
      return maps.queryRows;
    case "key":
      return maps.keyRows;
    case "value":
      return maps.valueRows;
    case "gate":
    case "up":
      return maps.intermediate;
    default:
      return maps.hidden;
  }
}

function columnsOf(role: TensorRole, maps: WidthMaps): AxisMap {
  if (role === "output") return maps.outputColumns;
  return role === "down" ? maps.intermediate : maps.hidden;
}

/**
 * The embedding writes its new columns as zeros unless the operator says otherwise; the head reads them as the layers'
 * readers do.
 */
function fillsOf(kind: TensorKind, role: TensorRole, choice: WidthChoice): Fills {
  if (kind === "embedding") return choice.fills.embedding ?? zeroFills;
  return kind === "linear" && writes(role) ? choice.fills.writers : choice.fills.readers;
}
