/**
 * A growth plan: the target's configuration and, for every one of its tensors, where its bytes come from. It is
 * made before any tensor is read, so names, shapes, counts and bytes are known in advance. A recipe either copies a
 * source tensor (by reference: no byte is written) or builds new values from whole source tensors, one recipe at a
 * time. This file assembles plans and holds their laws; what the recipes are is the operators' business.
 */
import type { TensorSpec } from "../architectures/architecture.ts";
import { countParameters, expectedTensors, tensorSpecs } from "../architectures/llama.ts";
import { formatLlamaConfig, type LlamaConfig } from "../architectures/llamaConfig.ts";
import { dtypeBytes, elementCount, tensorBytes } from "../dtype.ts";
import { invariant } from "../errors.ts";
import type { GrowthMask } from "../manifest.ts";
import type { Dtype, TensorInfo } from "../tensor.ts";
import type { Expansion } from "./expansion.ts";
import { connectionRate } from "./layers.ts";
import type { FitSettings } from "./learnSettings.ts";
import { momentsOf, type Moments } from "./moments.ts";
import { rowsPerBlock, type MatrixRows } from "./rows.ts";

export type GrowthAxis = "depth" | "width";

/** What is grown: a configuration, and its tensors with the element types that they are stored in. */
export interface GrowthSource {
  readonly config: LlamaConfig;
  /** Exactly the tensors that the configuration asks for. */
  readonly tensors: readonly TensorInfo[];
  /** Of a source that an earlier growth still masks: such a source is not grown. */
  readonly growthMask?: GrowthMask | null;
}

export interface CopyRecipe {
  readonly type: "copy";
  /** Name of a source tensor with the same element type and shape. */
  readonly source: string;
}

export interface BuildRecipe {
  readonly type: "build";
  /** Names of the source tensors it reads, none twice. */
  readonly inputs: readonly string[];
  /**
   * @param inputs values of `inputs`, in that order, row-major; not to be changed
   * @returns the new tensor's values, in memory of their own. Pure: equal inputs give equal bits.
   */
  readonly build: (inputs: readonly Float32Array[]) => Float32Array;
  /** The same, row by row from the rows of the only input; absent where the whole inputs are needed at once. */
  readonly rows?: MatrixRows;
  /** Name of an earlier target tensor with the very same bytes: whoever executes the plan may refer to those. */
  readonly sameAs?: string;
  /** Says that all values are zero, so that one run of zeros can stand for many tensors. */
  readonly zero?: true;
}

export type Recipe = CopyRecipe | BuildRecipe;

export interface PlannedTensor {
  readonly info: TensorInfo;
  readonly recipe: Recipe;
  /** How AdamW's moments of the tensor come from the source's, or, in words, why they cannot. */
  readonly moments: Moments | string;
}

export interface Preservation {
  /** Whether the target computes the source's logits, in exact arithmetic. */
  readonly value: boolean;
  /** Why, or why not, in a sentence. */
  readonly reason: string;
  /** Largest logit change allowed when measured in float32 on the stored weights; null where value is false. */
  readonly tolerance: number | null;
}

/** What has to be learned before the tensors can be made; the recipes of such a plan show its start. */
export interface ExpansionFit {
  readonly expansion: Expansion;
  readonly settings: FitSettings;
}

/** What an operator decides; the rest of a plan follows from it. */
export interface GrowthDecision {
  readonly operator: string;
  readonly axis: GrowthAxis | null;
  readonly targetConfig: LlamaConfig;
  /** For each target layer the source layer it comes from, or null where it is made from nothing. */
  readonly layerMap: readonly (number | null)[];
  /** Target layers that the source does not have, ascending. */
  readonly newLayers: readonly number[];
  readonly preservesFunction: Preservation;
  readonly warnings: readonly string[];
  /** Absent where nothing is learned. */
  readonly fit?: ExpansionFit;
  /** What the grown model is to be computed with until its new parts have been faded in; none unless given. */
  readonly growthMask?: GrowthMask | null;
  /** Recipe and element type of one target tensor; moments of a copy are copies, others are refused, unless given. */
  readonly recipeOf: (spec: TensorSpec) => {
    readonly recipe: Recipe;
    readonly dtype: Dtype;
    readonly moments?: Moments | string;
  };
}

export interface GrowthPlan extends Omit<GrowthDecision, "recipeOf"> {
  readonly sourceConfig: LlamaConfig;
  /** Every tensor of the target, in the order of the architecture's table. */
  readonly tensors: readonly PlannedTensor[];
  /** Kept neighbours: pairs of target layers whose sources are neighbours too, over L - 1; null for one layer. */
  readonly connectionRate: number | null;
  readonly numParameters: number;
  readonly numParametersNonEmbedding: number;
  /** Parameters of the target minus those of the source. */
  readonly numNewParameters: number;
  /** Target over source, without embedding and head (the paper's g). */
  readonly growthFactor: number;
  /** Bytes that have to be written. */
  readonly newBytes: number;
  /** Bytes of the target that need not be written: the source's own, and repeats of a new tensor. */
  readonly sharedBytes: number;
  /** Most memory that one recipe takes: its inputs and output as float32 and as stored. */
  readonly peakMemoryBytes: number;
}

/** Largest float32 logit change that a preserving growth may show, by the coarsest element type that was built. */
const tolerances: Readonly<Record<Dtype, number>> = { F32: 1e-3, F16: 5e-2, BF16: 5e-1 };

/** @returns the tolerance for a plan whose new tensors are rounded to the source's element types. */
export function toleranceOf(source: GrowthSource): number {
  return Math.max(...source.tensors.map((tensor) => tolerances[tensor.dtype]));
}

/** @returns the tensors of a source by name. */
export function tensorsByName(source: GrowthSource): ReadonlyMap<string, TensorInfo> {
  return new Map(source.tensors.map((tensor) => [tensor.name, tensor]));
}

/** @returns the whole plan that follows from an operator's decision. */
export function assemblePlan(source: GrowthSource, decision: GrowthDecision): GrowthPlan {
  const { recipeOf, ...rest } = decision;
  const tensors: PlannedTensor[] = tensorSpecs(decision.targetConfig).map((spec) => {
    const { recipe, dtype, moments } = recipeOf(spec);
    return { info: { name: spec.name, dtype, shape: spec.shape }, recipe, moments: moments ?? momentsOf(recipe) };
  });
  return account(source, rest, tensors);
}

/** @returns the plan with other recipes for the same tensors; those that change lose their moments. */
export function replan(
  source: GrowthSource,
  plan: GrowthPlan,
  recipes: readonly Recipe[],
  preservesFunction: Preservation,
): GrowthPlan {
  const tensors = plan.tensors.map(({ info, recipe: before, moments }, index) => {
    const recipe = recipes[index]!;
    return { info, recipe, moments: recipe === before ? moments : momentsOf(recipe) };
  });
  return account(source, { ...plan, preservesFunction }, tensors);
}

/** Adds up what follows from the tensors. */
function account(
  source: GrowthSource,
  decision: Omit<GrowthDecision, "recipeOf">,
  tensors: readonly PlannedTensor[],
): GrowthPlan {
  const inputs = tensorsByName(source);
  const built = tensors.filter(({ recipe }) => recipe.type === "build" && recipe.sameAs === undefined);
  const total = sum(tensors.map(({ info }) => tensorBytes(info)));
  const newBytes = sum(built.map(({ info }) => tensorBytes(info)));
  const sourceCounts = countParameters(source.config);
  const counts = countParameters(decision.targetConfig);
  return {
    ...decision,
    sourceConfig: source.config,
    tensors,
    connectionRate: connectionRate(decision.layerMap),
    numParameters: counts.total,
    numParametersNonEmbedding: counts.nonEmbedding,
    numNewParameters: counts.total - sourceCounts.total,
    growthFactor: counts.nonEmbedding / sourceCounts.nonEmbedding,
    newBytes,
    sharedBytes: total - newBytes,
    peakMemoryBytes: Math.max(0, ...built.map((tensor) => recipeMemoryBytes(tensor, inputs))),
  };
}

/** Inputs and output as float32 and as stored: what one recipe holds at once, in whole or in one block of rows. */
function recipeMemoryBytes(tensor: PlannedTensor, inputs: ReadonlyMap<string, TensorInfo>): number {
  const { info, recipe } = tensor;
  const names = recipe.type === "build" ? recipe.inputs : [];
  const infos = [info, ...names.map((name) => inputs.get(name)!)];
  const whole = sum(infos.map((each) => tensorBytes(each) + 4 * elementCount(each.shape)));
  const rows = recipe.type === "build" ? recipe.rows : undefined;
  if (rows === undefined) return whole;
  const block = rowsPerBlock(rows) * (rows.width + rows.sourceWidth);
  return Math.min(whole, block * (4 + Math.max(...infos.map(({ dtype }) => dtypeBytes(dtype)))));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/**
 * The laws of every plan, whatever its operator. A violation is a mistake of the operator, never of the request.
 * @throws Error naming the law
 */
export function checkPlanLaws(source: GrowthSource, plan: GrowthPlan): void {
  const { targetConfig, sourceConfig } = plan;
  formatLlamaConfig(targetConfig, {}); // throws unless legal
  const wanted = expectedTensors(targetConfig);
  invariant(plan.tensors.length === wanted.length, `a plan has ${wanted.length} tensors, not ${plan.tensors.length}`);
  const inputs = tensorsByName(source);
  const earlier = new Map<string, PlannedTensor>();
  plan.tensors.forEach((tensor, index) => {
    const { name, shape } = wanted[index]!;
    invariant(tensor.info.name === name, `tensor ${index} of a plan is ${name}, not ${tensor.info.name}`);
    invariant(String(tensor.info.shape) === String(shape), `${name} has shape [${shape.join(",")}]`);
    checkRecipe(tensor, inputs, earlier);
    earlier.set(name, tensor);
  });
  for (const key of ["hiddenSize", "intermediateSize", "numHiddenLayers", "numAttentionHeads"] as const) {
    invariant(targetConfig[key] >= sourceConfig[key], `growth never shrinks ${key}`);
  }
  for (const key of ["vocabSize", "maxPositionEmbeddings", "ropeTheta", "bosTokenId"] as const) {
    invariant(targetConfig[key] === sourceConfig[key], `growth leaves ${key} alone`);
  }
  checkLayers(plan);
  const bytes = sum(plan.tensors.map(({ info }) => tensorBytes(info)));
  invariant(plan.newBytes + plan.sharedBytes === bytes, "new and shared bytes add up to the target's");
  const elements = sum(plan.tensors.map(({ info }) => elementCount(info.shape)));
  invariant(elements === plan.numParameters, "the parameter count is the tensors' own");
  const { value, tolerance } = plan.preservesFunction;
  invariant(value ? tolerance !== null && tolerance >= 0 : tolerance === null, "a tolerance exactly where preserving");
}

function checkRecipe(
  tensor: PlannedTensor,
  inputs: ReadonlyMap<string, TensorInfo>,
  earlier: ReadonlyMap<string, PlannedTensor>,
): void {
  const { info, recipe } = tensor;
  if (recipe.type === "copy") {
    const origin = inputs.get(recipe.source);
    invariant(origin, `${info.name} copies ${recipe.source}, which the source has`);
    invariant(alike(origin, info), `${info.name} copies its like`);
    return;
  }
  for (const name of recipe.inputs) invariant(inputs.has(name), `${info.name} reads ${name}, which the source has`);
  if (recipe.rows !== undefined) checkRows(info, recipe, inputs);
  invariant(new Set(recipe.inputs).size === recipe.inputs.length, `${info.name} reads no tensor twice`);
  if (recipe.sameAs === undefined) return;
  const twin = earlier.get(recipe.sameAs);
  invariant(twin?.recipe.type === "build", `${info.name} is the same as an earlier tensor that is built`);
  invariant(alike(twin.info, info), `${info.name} is like its twin`);
}

function checkRows(info: TensorInfo, { inputs: names, rows }: BuildRecipe, inputs: ReadonlyMap<string, TensorInfo>) {
  invariant(names.length === 1 && rows, `${info.name} is made of the rows of one tensor`);
  const [sourceRows, sourceWidth] = inputs.get(names[0]!)!.shape;
  invariant(
    String(info.shape) === String([rows.origin.length, rows.width]),
    `${info.name} has as many rows and columns`,
  );
  invariant(sourceWidth === rows.sourceWidth, `${info.name} reads rows of ${rows.sourceWidth} values`);
  invariant(
    rows.origin.every((from) => from < sourceRows!),
    `${info.name} reads rows that ${names[0]} has`,
  );
}

function alike(left: TensorInfo, right: TensorInfo): boolean {
  return left.dtype === right.dtype && String(left.shape) === String(right.shape);
}

function checkLayers(plan: GrowthPlan): void {
  const layers = plan.targetConfig.numHiddenLayers;
  invariant(plan.layerMap.length === layers, "the layer map names every target layer");
  for (const origin of plan.layerMap) {
    invariant(origin === null || (origin >= 0 && origin < plan.sourceConfig.numHiddenLayers), "layer map in range");
  }
  plan.newLayers.forEach((layer, index) => {
    invariant(layer >= 0 && layer < layers && layer > (plan.newLayers[index - 1] ?? -1), "new layers ascend, in range");
  });
  invariant(plan.newLayers.length >= layers - plan.sourceConfig.numHiddenLayers, "at least the difference is new");
  const rate = plan.connectionRate;
  invariant(layers === 1 ? rate === null : rate !== null && rate >= 0 && rate <= 1, "connection rate in [0, 1]");
}
