/**
 * Depth growth from an index list, for every operator that gathers layers: whole layers are copied by reference and
 * the model's own tensors (embedding, final norm, head) once, unchanged. Which list it is, and which layers are
 * silenced, is the operator's choice. A silenced layer has zero attention-output and down projections (biases too),
 * so both its branches add nothing and the function does not change (method section 1.3).
 */
import type { TensorSpec } from "../architectures/architecture.ts";
import { tensorName } from "../architectures/llama.ts";
import { elementCount } from "../dtype.ts";
import type { JsonObject } from "../manifest.ts";
import { interpolatedLayers, maxPatternLength, maxTargetLayers, partialStackLayers, stackedLayers } from "./layers.ts";
import { zeroMoments } from "./moments.ts";
import type { OperatorRequest } from "./operator.ts";
import { fieldError, given, impossible, integerList, malformed, type UnreadParams } from "./params.ts";
import { assemblePlan, tensorsByName, type GrowthPlan, type GrowthSource, type Recipe } from "./plan.ts";
import { isScheme, schemeLayers, schemesSchema } from "./schemes.ts";

/** JSON Schema of each parameter that chooses an index list. */
export const depthProperties: Readonly<Record<"layers" | "pattern", JsonObject>> = {
  layers: {
    description: "Source layer, from 0, of each target layer. Instead of factor and pattern.",
    type: "array",
    minItems: 1,
    maxItems: maxTargetLayers,
    items: { type: "integer", minimum: 0, maximum: maxTargetLayers - 1 },
  },
  pattern: {
    description:
      "stack and interpolate take factor; a partial stack such as 12-3456*5-56, or a named scheme, does not.",
    anyOf: [{ type: "string", minLength: 1, maxLength: maxPatternLength }, schemesSchema],
  },
};

/**
 * Reads `factor`, `params.layers` or `params.pattern`: exactly one way of saying which layers.
 * @param fallback the pattern meant by a factor alone
 * @returns the source layer of each target layer
 * @throws invalid_request, unprocessable
 */
export function readDepthLayers(
  source: GrowthSource,
  request: OperatorRequest,
  params: UnreadParams,
  fallback: "stack" | "interpolate",
): number[] {
  const numLayers = source.config.numHiddenLayers;
  const list = given(params, "layers");
  const pattern = given(params, "pattern") ?? (list === undefined ? fallback : undefined);
  if (list !== undefined) {
    if (pattern !== undefined) throw fieldError("invalid_request", `${params.pointer}/pattern`, "excludes layers");
    refuseFactor(request, "layers");
    const pointer = `${params.pointer}/layers`;
    const layers = integerList(list, pointer, maxTargetLayers, 0, numLayers - 1);
    return notSmaller(layers, numLayers, pointer);
  }
  if (pattern === "stack") return stackedLayers(numLayers, readFactor(request, numLayers));
  if (pattern === "interpolate") return interpolatedLayers(numLayers, readFactor(request, numLayers));
  refuseFactor(request, "this pattern");
  const pointer = `${params.pointer}/pattern`;
  if (isScheme(pattern)) return notSmaller(schemeLayers(pattern, numLayers, pointer), numLayers, pointer);
  if (typeof pattern !== "string") throw malformed(pointer, pattern, "a pattern or a named scheme");
  return notSmaller(partialStackLayers(pattern, numLayers, pointer), numLayers, pointer);
}

/** @throws invalid_request when absent or not an integer, unprocessable when it makes too many layers */
export function readFactor(request: OperatorRequest, numLayers: number): number {
  const pointer = `${request.pointer}/factor`;
  const factor = request.factor;
  if (factor === undefined || !Number.isInteger(factor) || factor < 1) {
    throw malformed(pointer, factor, "an integer from 1");
  }
  if (factor * numLayers > maxTargetLayers) {
    throw impossible(pointer, `makes ${factor * numLayers} layers; at most ${maxTargetLayers} are possible`);
  }
  return factor;
}

/** @throws invalid_request when a factor is given beside something that already says how many layers */
export function refuseFactor(request: OperatorRequest, other: string): void {
  if (request.factor === undefined) return;
  throw fieldError("invalid_request", `${request.pointer}/factor`, `excludes ${other}, which says how many layers`);
}

function notSmaller(layers: number[], numLayers: number, pointer: string): number[] {
  if (layers.length >= numLayers) return layers;
  throw impossible(pointer, `makes ${layers.length} layers; the source has ${numLayers}, and growth never shrinks`);
}

export interface DepthChoice {
  readonly operator: string;
  /** Source layer of each target layer. */
  readonly layers: readonly number[];
  /** Target layers that count as new, ascending. */
  readonly newLayers: readonly number[];
  /** Target layers whose branches are to add nothing. */
  readonly silenced?: ReadonlySet<number>;
}

/** @returns the plan that gathers those layers. */
export function planDepth(source: GrowthSource, choice: DepthChoice): GrowthPlan {
  const { layers } = choice;
  const dtypes = tensorsByName(source);
  const silenced = choice.silenced ?? new Set<number>();
  const identity = layers.every((origin, index) => origin === index) && layers.length === source.config.numHiddenLayers;
  const preserves = identity || (choice.newLayers.every((layer) => silenced.has(layer)) && inOrder(choice, source));
  const firstZeros = new Map<string, string>();
  return assemblePlan(source, {
    operator: choice.operator,
    axis: "depth",
    targetConfig: { ...source.config, numHiddenLayers: layers.length },
    layerMap: layers,
    newLayers: choice.newLayers,
    preservesFunction: preserves
      ? { value: true, reason: identity ? "every layer is kept as it is" : silencedReason, tolerance: 0 }
      : { value: false, reason: "copied layers act on inputs that they have not been trained on", tolerance: null },
    warnings: depthWarnings(source, layers),
    recipeOf(spec) {
      const origin = spec.layer === null ? null : layers[spec.layer]!;
      const name = tensorName(spec.row, origin);
      const dtype = dtypes.get(name)!.dtype;
      const silent = spec.layer !== null && silenced.has(spec.layer) && writesResidual(spec);
      if (!silent) return { recipe: { type: "copy", source: name }, dtype };
      const recipe = zeros(spec, firstZeros, `${dtype} ${spec.shape.join("x")}`);
      return { recipe, dtype, moments: zeroMoments(spec) };
    },
  });
}

const silencedReason = "each new layer's attention-output and down projections are zero: it adds nothing";

/** Whether the layers that are not silenced are the source's, all of them, in order. */
function inOrder(choice: DepthChoice, source: GrowthSource): boolean {
  const kept = choice.layers.filter((_, index) => !choice.silenced?.has(index));
  return kept.length === source.config.numHiddenLayers && kept.every((origin, index) => origin === index);
}

/** The linears, and their biases, whose output is added to the residual stream. */
function writesResidual(spec: TensorSpec): boolean {
  return spec.row.role === "output" || spec.row.role === "down";
}

/** All zero tensors of one size share the bytes of the first. */
function zeros(spec: TensorSpec, first: Map<string, string>, key: string): Recipe {
  const count = elementCount(spec.shape);
  const twin = first.get(key);
  if (twin === undefined) first.set(key, spec.name);
  const build = (): Float32Array => new Float32Array(count);
  return { type: "build", inputs: [], build, ...(twin === undefined ? {} : { sameAs: twin }) };
}

function depthWarnings(source: GrowthSource, layers: readonly number[]): string[] {
  const warnings: string[] = [];
  const numLayers = source.config.numHiddenLayers;
  if (numLayers === 1 && layers.length > 1) {
    warnings.push("the source has one layer: the paper found one-layer bases worse than training from scratch (4.2)");
  }
  if (layers.length > 4 * numLayers) {
    warnings.push(`growth by ${(layers.length / numLayers).toFixed(1)}: the paper found 2 to 4 best (4.2)`);
  }
  const unused = Array.from({ length: numLayers }, (_, index) => index).filter((index) => !layers.includes(index));
  if (unused.length > 0) warnings.push(`source layers ${unused.join(", ")} are not used`);
  if (layers.length === numLayers) warnings.push("the target has as many layers as the source");
  return warnings;
}
