/**
 * Builds what a growth plan has to build: each new tensor is computed from the source tensors that its recipe
 * names and streamed into one new blob, one recipe in memory at a time. Tensors that are copies are not
 * touched: they are references to the source's blobs (growthPlan.ts).
 */
import { planGrowth } from "../../ops/growth/index.ts";
import { invariant } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import { TensorReader } from "../checkpoint/tensorReader.ts";
import { writeTensors, type TensorToWrite, type WriteOptions } from "../checkpoint/writer.ts";
import type { GrowWork } from "./computeProtocol.ts";

/** @returns the built tensors, in the plan's order; none and no blob where the plan only copies. */
export async function growTensors(
  work: GrowWork,
  options: WriteOptions,
): Promise<{ tensors: readonly TensorRef[]; blob: NewBlob | null }> {
  const { source } = work;
  const plan = planGrowth(source.manifest, work.request);
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
    return await writeTensors(work.blobDir, toWrite, options);
  } finally {
    await reader.close();
  }
}
