/**
 * The learned expansion of LiGO: every target tensor as a linear function of the source's, through a few matrices that
 * are shared. `depth.KIND` [L, l] mixes the source's layers, one map for each of the nine kinds of tensor in a layer (a
 * bias goes with its linear); `width.AXIS` [new size, old size] widens an axis, and all tensors on the axis share it,
 * so the residual stream has one map. Queries, keys and values have maps of their own; the columns of the attention
 * output follow the value map, repeated over the query heads of a group, each kept to the head that it comes from.
 * A map exists only where its axis grows. This file is the table: which parameters there are, what they start from
 * (stacked identities along depth, so the start is G_stack; along width an identity over rows of N(0, 1 / size)), and
 * what each tensor is made of. The arithmetic is materialize.ts's, and that of the fit the engine's.
 * Source: arXiv 2405.15319, A.1.2 eq 3, A.6 eq 37-42; arXiv 2303.00980 (method section 1.5).
 */
import type { TensorRole, TensorSpec } from "../architectures/architecture.ts";
import { axisSize, tensorName } from "../architectures/llama.ts";
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import { invariant } from "../errors.ts";
import { seededStream } from "../rng.ts";
import { combinedMap, headDimMaps, headMaps, newIndex, paddedMap, type AxisMap, type HeadMaps } from "./axes.ts";

/** One learned matrix, row-major. */
export interface ExpansionParameter {
  readonly name: string;
  readonly shape: readonly [number, number];
  /** Its first values; the same for equal seeds on every machine. */
  readonly initial: () => Float32Array;
}

/** How the value map becomes a map of the attention output's columns: entries are taken from it, then masked. */
export interface HeadSpread {
  /** Value row of each target query dimension, value column of each source query dimension. */
  readonly rows: Int32Array;
  readonly columns: Int32Array;
  /** 1 where the two belong to query heads of which one comes from the other's place in its group, else 0. */
  readonly mask: Float32Array;
}

export interface AxisForm {
  readonly parameter: string;
  readonly spread: HeadSpread | null;
}

/** target = rows (mixture of sources) columns^T; whatever is null is left out. */
export interface TensorForm {
  /** Source tensors: all layers' where they are mixed, else one. */
  readonly sources: readonly string[];
  /** Extents of each of them. */
  readonly sourceShape: readonly number[];
  /** The row of a depth map that weighs them. */
  readonly mix: { readonly parameter: string; readonly row: number } | null;
  readonly rows: AxisForm | null;
  readonly columns: AxisForm | null;
}

export interface Expansion {
  readonly parameters: readonly ExpansionParameter[];
  readonly formOf: (spec: TensorSpec) => TensorForm;
}

/** The nine kinds of tensor in a layer. */
const depthKinds = {
  inputNorm: "input_layernorm",
  query: "q_proj",
  key: "k_proj",
  value: "v_proj",
  output: "o_proj",
  postAttentionNorm: "post_attention_layernorm",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
} as const satisfies Partial<Record<TensorRole, string>>;

type WidthAxis = "hidden" | "intermediate" | "query" | "key" | "value";

const nameOf = (axis: WidthAxis): string => `width.${axis}`;

/** @param target sizes that were checked: no smaller, heads that can be mapped */
export function makeExpansion(source: LlamaConfig, target: LlamaConfig, seed: number): Expansion {
  const grows = source.numHiddenLayers !== target.numHiddenLayers;
  const depth = grows ? Object.values(depthKinds).map((kind) => depthParameter(kind, source, target)) : [];
  const widths = widthMaps(source, target);
  const spread = widths.has("value") ? headSpread(source, target) : null;
  const width = [...widths].map(([axis, map]) => widthParameter(axis, map, source, target, seed));
  const form = (axis: WidthAxis | null): AxisForm | null =>
    axis !== null && widths.has(axis) ? { parameter: nameOf(axis), spread: null } : null;
  return {
    parameters: [...depth, ...width],
    formOf(spec) {
      const { row, layer } = spec;
      const mixed = grows && layer !== null;
      const outputColumns = row.kind === "linear" && row.role === "output";
      return {
        sources: mixed
          ? Array.from({ length: source.numHiddenLayers }, (_, index) => tensorName(row, index))
          : [tensorName(row, layer)],
        sourceShape: row.axes.map((axis) => axisSize(source, axis)),
        mix: mixed ? { parameter: `depth.${depthKinds[row.role as keyof typeof depthKinds]}`, row: layer } : null,
        rows: form(rowAxis(spec)),
        columns: outputColumns && spread !== null ? { parameter: nameOf("value"), spread } : form(columnAxis(spec)),
      };
    },
  };
}

/** Stacked identities: target layer i starts as source layer i mod l, G_stack's rule. */
function depthParameter(kind: string, source: LlamaConfig, target: LlamaConfig): ExpansionParameter {
  const [rows, columns] = [target.numHiddenLayers, source.numHiddenLayers];
  return {
    name: `depth.${kind}`,
    shape: [rows, columns],
    initial() {
      const values = new Float32Array(rows * columns);
      for (let row = 0; row < rows; row += 1) values[row * columns + (row % columns)] = 1;
      return values;
    },
  };
}

/**
 * Old rows are the identity, new ones N(0, 1 / size). Where a head grows, old query rows are multiplied by the root of
 * its factor, for the softmax's scale.
 */
function widthParameter(
  axis: WidthAxis,
  map: AxisMap,
  source: LlamaConfig,
  target: LlamaConfig,
  seed: number,
): ExpansionParameter {
  const [rows, columns] = [map.origin.length, map.sourceSize];
  const kept = axis === "query" ? Math.sqrt(target.headDim / source.headDim) : 1;
  return {
    name: nameOf(axis),
    shape: [rows, columns],
    initial() {
      const values = new Float32Array(rows * columns);
      const stream = seededStream(seed, `learn ${nameOf(axis)}`);
      map.origin.forEach((from, row) => {
        const start = row * columns;
        if (from >= 0) values[start + from] = kept;
        else if (from === newIndex) stream.fillNormal(values.subarray(start, start + columns), 1 / Math.sqrt(rows));
      });
      return values;
    },
  };
}

/** The axes that grow, with the source index that each index starts from. */
function widthMaps(source: LlamaConfig, target: LlamaConfig): Map<WidthAxis, AxisMap> {
  const maps = new Map<WidthAxis, AxisMap>();
  for (const [axis, key] of [
    ["hidden", "hiddenSize"],
    ["intermediate", "intermediateSize"],
  ] as const) {
    if (source[key] !== target[key]) maps.set(axis, paddedMap(source[key], target[key]));
  }
  const sizes = ["numAttentionHeads", "numKeyValueHeads", "headDim"] as const;
  if (sizes.every((key) => source[key] === target[key])) return maps;
  const heads = headOrigins(source, target);
  const dims = headDimMaps(source.headDim, target.headDim / source.headDim, true);
  maps.set("query", combinedMap(heads.query, dims.query));
  maps.set("key", combinedMap(heads.keyValue, dims.key));
  maps.set("value", combinedMap(heads.keyValue, dims.value));
  return maps;
}

/** New heads are new; where groups shrink, so that this is impossible, they are copies. */
function headOrigins(source: LlamaConfig, target: LlamaConfig): HeadMaps {
  const counts = (config: LlamaConfig): { queryHeads: number; keyValueHeads: number } => ({
    queryHeads: config.numAttentionHeads,
    keyValueHeads: config.numKeyValueHeads,
  });
  const maps = headMaps(counts(source), counts(target), true) ?? headMaps(counts(source), counts(target), false);
  invariant(maps !== null, "head counts were checked when the target was read");
  return maps;
}

/** The value map over the group: query head j' reads from the one head of each group that stands in its place. */
function headSpread(source: LlamaConfig, target: LlamaConfig): HeadSpread {
  const { query } = headOrigins(source, target);
  const groups = [source, target].map((config) => config.numAttentionHeads / config.numKeyValueHeads);
  const [sourceGroup, targetGroup] = groups as [number, number];
  const rows = new Int32Array(axisSize(target, "query"));
  const columns = new Int32Array(axisSize(source, "query"));
  const headOf = (index: number, config: LlamaConfig): number => Math.floor(index / config.headDim);
  rows.forEach((_, index) => {
    const group = Math.floor(headOf(index, target) / targetGroup);
    rows[index] = group * target.headDim + (index % target.headDim);
  });
  columns.forEach((_, index) => {
    const group = Math.floor(headOf(index, source) / sourceGroup);
    columns[index] = group * source.headDim + (index % source.headDim);
  });
  const mask = new Float32Array(rows.length * columns.length);
  for (let row = 0; row < rows.length; row += 1) {
    const head = headOf(row, target);
    const origin = query.origin[head]!;
    const place = (origin >= 0 ? origin : head % targetGroup) % sourceGroup;
    for (let column = 0; column < columns.length; column += 1) {
      if (headOf(column, source) % sourceGroup === place) mask[row * columns.length + column] = 1;
    }
  }
  return { rows, columns, mask };
}

/** The axis of a tensor's outputs; a vocabulary does not grow. */
function rowAxis({ row }: TensorSpec): WidthAxis | null {
  if (row.kind === "embedding" || row.kind === "head") return null;
  const { role } = row;
  if (role === "query" || role === "key" || role === "value") return role;
  return role === "gate" || role === "up" ? "intermediate" : "hidden";
}

/** The axis of a tensor's inputs; the attention output's is the value map, spread. */
function columnAxis({ row }: TensorSpec): WidthAxis | null {
  if (row.kind === "norm" || row.kind === "bias" || row.role === "output") return null;
  return row.role === "down" ? "intermediate" : "hidden";
}
