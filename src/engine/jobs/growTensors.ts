/**
 * Builds what a growth plan has to build: each new tensor is computed from the source tensors that its recipe
 * names and streamed into one new blob, one recipe in memory at a time. Tensors that are copies are not
 * touched: they are references to the source's blobs. The optimizer's moments are grown in the same way, where
 * that is asked for.
 */
import { plannedMoments, planGrowth, type GrowthPlan, type Moments, type Recipe } from "../../ops/growth/index.ts";
import { invariant } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { OptimizerRef, ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { TensorInfo, TensorRef } from "../../ops/tensor.ts";
import { TensorReader } from "../checkpoint/tensorReader.ts";
import { writeTensors, type TensorToWrite, type WriteOptions } from "../checkpoint/writer.ts";
import type { GrowWork } from "./computeProtocol.ts";

export interface BuiltTensors {
  /** In the plan's order; none where the plan only copies. */
  readonly tensors: readonly TensorRef[];
  readonly blob: NewBlob | null;
  /** The grown moments, each list in the plan's order; null unless asked for. */
  readonly optimizer: { readonly ref: OptimizerRef; readonly blobs: readonly NewBlob[] } | null;
}

/** Plans again, which costs nothing and keeps functions out of the request, and builds. */
export function growTensors(work: GrowWork, options: WriteOptions): Promise<BuiltTensors> {
  const plan = planGrowth(work.source.manifest, work.request);
  return buildTensors(plan, work.source, work.blobDir, options, work.growOptimizer === true);
}

/**
 * @param growOptimizer whether the source's moments are grown as well
 * @throws storage_full, source_changed, cancelled by the signal; then nothing is visible in the blob directory
 */
export async function buildTensors(
  plan: GrowthPlan,
  source: ResolvedCheckpoint,
  blobDir: string,
  options: WriteOptions,
  growOptimizer = false,
): Promise<BuiltTensors> {
  const reader = new TensorReader(source.blobs);
  try {
    const { tensors } = source.manifest;
    const built = await buildNew(plan.tensors, tensors, reader, blobDir, options);
    const { optimizer } = source.manifest;
    if (!growOptimizer) return { ...built, optimizer: null };
    return { ...built, optimizer: await growMoments(plan, optimizer, reader, blobDir, options) };
  } finally {
    await reader.close();
  }
}

/** Builds what is no copy, into one blob; runs of zeros and twins are written once and not named again. */
async function buildNew(
  planned: readonly { readonly info: TensorInfo; readonly recipe: Recipe }[],
  sources: readonly TensorRef[],
  reader: TensorReader,
  blobDir: string,
  options: WriteOptions,
): Promise<{ tensors: readonly TensorRef[]; blob: NewBlob | null }> {
  const byName = new Map(sources.map((tensor) => [tensor.name, tensor]));
  const toWrite: TensorToWrite[] = [];
  for (const { info, recipe } of planned) {
    if (recipe.type === "copy" || recipe.sameAs !== undefined) continue;
    const data = async (): Promise<Float32Array> => {
      const inputs: Float32Array[] = [];
      for (const name of recipe.inputs) {
        const tensor = byName.get(name);
        invariant(tensor, `the plan reads ${name}, which the source has`);
        inputs.push(await reader.read(tensor));
      }
      return recipe.build(inputs);
    };
    toWrite.push({ info, data });
  }
  if (toWrite.length === 0) return { tensors: [], blob: null };
  return writeTensors(blobDir, toWrite, options);
}

/** First and second moments, one blob each where any is new; float32 whatever the weights are stored in. */
async function growMoments(
  plan: GrowthPlan,
  source: OptimizerRef | null,
  reader: TensorReader,
  blobDir: string,
  options: WriteOptions,
): Promise<NonNullable<BuiltTensors["optimizer"]>> {
  invariant(source, "the request was checked: the source has moments to grow");
  const recipes = plannedMoments(plan);
  const blobs: NewBlob[] = [];
  const grow = async (which: keyof Moments, moments: readonly TensorRef[]): Promise<TensorRef[]> => {
    const zeros = new Map<string, string>();
    const planned = plan.tensors.map(({ info }, index) => {
      const recipe = withZeroTwin(recipes[index]![which], info, zeros);
      return { info: { ...info, dtype: "F32" as const }, recipe };
    });
    const built = await buildNew(planned, moments, reader, blobDir, options);
    if (built.blob !== null) blobs.push(built.blob);
    return targetTensors(planned, moments, built.tensors);
  };
  const firstMoments = await grow("first", source.firstMoments);
  const secondMoments = await grow("second", source.secondMoments);
  return { ref: { ...source, firstMoments, secondMoments }, blobs };
}

/** All zeros of one shape are the bytes of the first. */
function withZeroTwin(recipe: Recipe, info: TensorInfo, first: Map<string, string>): Recipe {
  if (recipe.type === "copy" || recipe.zero !== true) return recipe;
  const key = info.shape.join("x");
  const twin = first.get(key);
  if (twin === undefined) first.set(key, info.name);
  return twin === undefined ? recipe : { ...recipe, sameAs: twin };
}

/** @returns every tensor of the target where its bytes lie: copies at the source, twins at the tensor they repeat. */
export function targetTensors(
  planned: readonly { readonly info: TensorInfo; readonly recipe: Recipe }[],
  source: readonly TensorRef[],
  built: readonly TensorRef[],
): TensorRef[] {
  const sources = new Map(source.map((tensor) => [tensor.name, tensor]));
  const targets = new Map(built.map((tensor) => [tensor.name, tensor]));
  for (const { info, recipe } of planned) {
    if (recipe.type === "build" && recipe.sameAs === undefined) continue;
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
