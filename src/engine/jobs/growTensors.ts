/**
 * Builds what a growth plan has to build: each new tensor is computed from the source tensors that its recipe
 * names and streamed into one new blob, one recipe in memory at a time. Tensors that are copies are not
 * touched: they are references to the source's blobs (growthPlan.ts).
 */
import { planGrowth, type GrowthPlan } from "../../ops/growth/index.ts";
import { invariant } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import { TensorReader } from "../checkpoint/tensorReader.ts";
import { writeTensors, type TensorToWrite, type WriteOptions } from "../checkpoint/writer.ts";
import type { GrowWork } from "./computeProtocol.ts";

export interface BuiltTensors {
  /** In the plan's order; none where the plan only copies. */
  readonly tensors: readonly TensorRef[];
  readonly blob: NewBlob | null;
}

/** Plans again, which costs nothing and keeps functions out of the request, and builds. */
export function growTensors(work: GrowWork, options: WriteOptions): Promise<BuiltTensors> {
  return buildTensors(planGrowth(work.source.manifest, work.request), work.source, work.blobDir, options);
}

/** @throws storage_full, source_changed, cancelled by the signal; then nothing is visible in the blob directory */
export async function buildTensors(
  plan: GrowthPlan,
  source: ResolvedCheckpoint,
  blobDir: string,
  options: WriteOptions,
): Promise<BuiltTensors> {
  const byName = new Map(source.manifest.tensors.map((tensor) => [tensor.name, tensor]));
  const reader = new TensorReader(source.blobs);
  try {
    const toWrite: TensorToWrite[] = [];
    for (const { info, recipe } of plan.tensors) {
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
    return await writeTensors(blobDir, toWrite, options);
  } finally {
    await reader.close();
  }
}
