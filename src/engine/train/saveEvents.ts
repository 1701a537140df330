/**
 * The events in which a run's state leaves: resume points, the checkpoints published on the way, and the result. What
 * a run goes on from is float32; what becomes a checkpoint has the element type that the work asks for.
 */
import type { WorkEvent } from "../../ops/events.ts";
import type { TrainResult, TrainWork } from "../backends/work.ts";
import { saveRun, saveWeights } from "./resume.ts";
import type { Run } from "./run.ts";

/** @returns a resume point, with `publish` a checkpoint of it too. @throws as `saveRun` and `saveWeights` */
export async function savedEvent(work: TrainWork, run: Run, publish: boolean): Promise<WorkEvent> {
  const { blobDir, dtype = "F32" } = work;
  const { state, blobs } = await saveRun(run, blobDir, { withMoments: true });
  if (!publish || dtype === "F32") return { type: "saved", state, blobs, publish: publish ? state.weights : null };
  const { tensors, blob } = await saveWeights(run, blobDir, dtype);
  return { type: "saved", state, blobs: [...blobs, blob], publish: tensors };
}

/** @returns the last event of a run. @throws as `saveRun` */
export async function resultEvent(work: TrainWork, run: Run): Promise<WorkEvent> {
  const { blobDir, dtype = "F32", keepOptimizerState: withMoments } = work;
  const { state, blobs } = await saveRun(run, blobDir, { withMoments, dtype });
  const result: TrainResult = { state, trainLoss: state.lastLoss, validationLoss: state.lastValidationLoss };
  return { type: "result", result, blobs };
}
