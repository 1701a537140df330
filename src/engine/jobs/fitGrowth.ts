/**
 * A learned growth in a compute process: the fit, with the events and resume points of a training, then the tensors
 * that follow from it, streamed into blobs. The fit's end is saved as well, so that a growth stopped while it
 * writes does not fit again.
 */
import { invariant } from "../../ops/errors.ts";
import type { TrainingState, WorkEvent } from "../../ops/events.ts";
import { learnedPlan, planGrowth } from "../../ops/growth/index.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import type { Backend } from "../backends/backend.ts";
import type { FitWork, TrainResult } from "../backends/work.ts";
import { blobLocation } from "../checkpoint/blobs.ts";
import { readTensors } from "../checkpoint/tensorReader.ts";
import { buildTensors } from "../growth/growTensors.ts";
import { progressStream } from "./progressStream.ts";

/** What a learned growth makes. */
export interface FittedGrowth {
  /** The target's tensors that are not the source's own. */
  readonly tensors: readonly TensorRef[];
  readonly fit: TrainResult;
}

/** @throws as a training does; storage_full, source_changed */
export async function* fitGrowth(backend: Backend, work: FitWork, signal: AbortSignal): AsyncGenerator<WorkEvent> {
  for await (const event of backend.fit(work, signal)) {
    if (event.type !== "result") {
      yield event;
      continue;
    }
    const fit = event.result as TrainResult;
    yield { type: "saved", state: fit.state, blobs: event.blobs, publish: null };
    const sizes = new Map(event.blobs.map(({ digest, sizeBytes }) => [digest, sizeBytes]));
    yield* progressStream("building tensors", signal, async (onProgress) => {
      const values = await readParameters(fit.state, sizes, work.blobDir);
      const plan = planGrowth(work.source.manifest, work.request);
      const learned = learnedPlan(work.source.manifest, plan, (name) => {
        const found = values.get(name);
        invariant(found, `the fit has a parameter ${name}`);
        return found;
      });
      const onBytes = (done: number, all: number): void => onProgress(done / all);
      const built = await buildTensors(learned, work.source, work.blobDir, { signal, onProgress: onBytes });
      const result: FittedGrowth = { tensors: built.tensors, fit };
      return { result, blobs: built.blobs };
    });
  }
}

async function readParameters(
  { weights }: TrainingState,
  sizes: ReadonlyMap<string, number>,
  blobDir: string,
): Promise<ReadonlyMap<string, Float32Array>> {
  const locations = [...sizes].map(([digest, sizeBytes]) => [digest, blobLocation(blobDir, { digest, sizeBytes })]);
  const values = new Map<string, Float32Array>();
  for await (const tensor of readTensors(Object.fromEntries(locations), weights)) {
    values.set(tensor.info.name, tensor.values);
  }
  return values;
}
