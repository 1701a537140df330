/**
 * The mask of G_random: what a model computes while its new parts are faded in. The paper multiplies the output of
 * every new part by c, which goes from 0 to 1 over the optimizer's updates; an output's factor is a factor of the
 * weights' rows, so the masked model is a plain Llama with other weights: W_masked = mask * W, tensor by tensor. That
 * is how it is computed here, for training (gradient: mask * gradient), inference and evaluation alike, and why an
 * export can be folded. At c = 1 nothing is multiplied.
 *
 * Depth: the attention-output and down projections of new layers are multiplied by c, biases too. Width: new rows of
 * every linear, and new columns of the embedding, by their axis's c. Norms see n = d + c (D - d) live dimensions: with
 * share = n / D the embedding and what else writes the residual stream is divided by sqrt(share) and gains multiplied
 * by it, so that mean square and epsilon count as over n dimensions (the code's mask-aware norm; c = 0 is the source
 * exactly). A tied table is one tensor, masked where it embeds and where it is the head alike; its final gain takes
 * share.
 * Source: arXiv 2405.15319, A.5 eq 20-36; the code's schedule and stages: method section 1.4.
 */
import type { TensorSpec } from "../architectures/architecture.ts";
import { findSpec } from "../architectures/llama.ts";
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import type { GrowthMask } from "../manifest.ts";
import { makeWidthMaps, type WidthMaps } from "./width.ts";
import type { AxisMap } from "./axes.ts";

/** What is masked together. */
export interface MaskValues {
  readonly layers: number;
  readonly intermediate: number;
  readonly hidden: number;
  readonly heads: number;
}

/** Factors of one tensor along one of its axes. */
export interface TensorMask {
  readonly axis: "rows" | "columns";
  /** Float32, as they are multiplied with; one per row (or element of a vector), or one per column. */
  readonly factors: Float32Array;
}

type Stage = Exclude<keyof MaskValues, "layers">;

/** The growing axes in the order in which three stages go through them. */
function stagesOf(config: LlamaConfig, mask: GrowthMask): readonly Stage[] {
  const { sourceSizes: source } = mask;
  if (source === null) return [];
  const stages: Stage[] = [];
  if (config.intermediateSize > source.intermediateSize) stages.push("intermediate");
  if (config.hiddenSize > source.hiddenSize) stages.push("hidden");
  const heads = ["numAttentionHeads", "numKeyValueHeads", "headDim"] as const;
  if (heads.some((key) => config[key] > source[key])) stages.push("heads");
  return stages;
}

/** @returns c of every part after `mask.step` updates, each in [0, 1]. */
export function maskValues(config: LlamaConfig, mask: GrowthMask): MaskValues {
  const ramp = (stage: number): number => Math.min(1, Math.max(0, mask.step / mask.rampSteps - stage));
  const order = stagesOf(config, mask);
  const of = (stage: Stage): number => ramp(mask.stages === 1 ? 0 : Math.max(0, order.indexOf(stage)));
  return { layers: ramp(0), intermediate: of("intermediate"), hidden: of("hidden"), heads: of("heads") };
}

/** @returns whether every part counts in full, so that the model is plain. */
export function finishedMask(config: LlamaConfig, mask: GrowthMask): boolean {
  const stages = mask.stages === 1 ? 1 : Math.max(1, stagesOf(config, mask).length);
  return mask.step >= stages * mask.rampSteps;
}

/** @returns the mask after more updates; null once it is finished, or where there was none. */
export function maskAfter(
  config: LlamaConfig,
  mask: GrowthMask | null | undefined,
  updates: number,
): GrowthMask | null {
  if (!mask) return null;
  const later = { ...mask, step: mask.step + updates };
  return finishedMask(config, later) ? null : later;
}

/** @returns the factors of each tensor of the model; null for a tensor that is computed with as it is. */
export function tensorMask(config: LlamaConfig, mask: GrowthMask): (spec: TensorSpec) => TensorMask | null {
  const values = maskValues(config, mask);
  const layers = new Set(mask.layers);
  const width = mask.sourceSizes === null ? null : widthMask(config, { ...config, ...mask.sourceSizes }, values);
  return (spec) => {
    if (width !== null) return width(spec);
    const silenced = spec.layer !== null && layers.has(spec.layer) && ["output", "down"].includes(spec.row.role);
    if (!silenced || values.layers === 1) return null;
    return { axis: "rows", factors: new Float32Array(spec.shape[0]!).fill(values.layers) };
  };
}

function widthMask(
  config: LlamaConfig,
  source: LlamaConfig,
  values: MaskValues,
): (spec: TensorSpec) => TensorMask | null {
  const maps = makeWidthMaps(source, config, { padded: true, seed: null });
  const share = (source.hiddenSize + values.hidden * (config.hiddenSize - source.hiddenSize)) / config.hiddenSize;
  const rows = (map: AxisMap, c: number, factor = 1): TensorMask | null => {
    const factors = Float32Array.from(map.origin, (from) => factor * (from < 0 ? c : 1));
    return factors.every((each) => each === 1) ? null : { axis: "rows", factors };
  };
  const hidden = (factor: number): TensorMask | null => rows(maps.hidden, values.hidden, factor);
  const gain = (factor: number): TensorMask | null =>
    factor === 1 ? null : { axis: "rows", factors: new Float32Array(config.hiddenSize).fill(factor) };
  return ({ row }) => {
    switch (row.role) {
      case "embedding": {
        const columns = hidden(1 / Math.sqrt(share));
        return columns && { ...columns, axis: "columns" };
      }
      case "output":
      case "down":
        return hidden(1 / Math.sqrt(share));
      case "gate":
      case "up":
        return rows(maps.intermediate, values.intermediate);
      case "query":
      case "key":
      case "value":
        return rows(headRows(maps, row.role), values.heads);
      case "inputNorm":
      case "postAttentionNorm":
        return gain(Math.sqrt(share));
      case "finalNorm":
        return gain(config.tieWordEmbeddings ? share : Math.sqrt(share));
      case "head":
        return null;
    }
  };
}

function headRows(maps: WidthMaps, role: "query" | "key" | "value"): AxisMap {
  return role === "query" ? maps.queryRows : role === "key" ? maps.keyRows : maps.valueRows;
}

/** @returns the factors of each tensor of a checkpoint by its name; null for all where it is plain. */
export function maskOfNames(manifest: {
  readonly config: LlamaConfig;
  readonly growthMask?: GrowthMask | null;
}): (name: string) => TensorMask | null {
  const { config, growthMask } = manifest;
  if (!growthMask) return () => null;
  const maskOf = tensorMask(config, growthMask);
  return (name) => {
    const spec = findSpec(config, name);
    return spec && maskOf(spec);
  };
}

/** @returns whether a checkpoint computes with a mask. */
export function isMasked(manifest: { readonly growthMask?: GrowthMask | null }): boolean {
  return manifest.growthMask !== undefined && manifest.growthMask !== null;
}

/**
 * @param first index of values[0] within the tensor, so that a part of it can be masked
 * @returns the values times their factors, in memory of their own, each product rounded as float32 rounds
 */
export function maskedValues<Values extends Float32Array | Float64Array>(
  values: Values,
  shape: readonly number[],
  { axis, factors }: TensorMask,
  first = 0,
): Values {
  const columns = shape.length === 1 ? 1 : shape.at(-1)!;
  const factorAt = (index: number): number =>
    factors[axis === "columns" ? index % columns : Math.floor(index / columns)]!;
  return values.map((value, index) => value * factorAt(first + index)) as Values;
}
