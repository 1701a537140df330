/**
 * Continues the pre-training of a checkpoint. Resume points go to the job's row as they are made, so that an
 * attempt goes on where the last one stopped; published ones become checkpoints of their own.
 */
import type { TrainingState } from "../../../ops/events.ts";
import { maskAfter } from "../../../ops/growth/index.ts";
import type { CheckpointManifest, JsonObject } from "../../../ops/manifest.ts";
import type { Dtype } from "../../../ops/tensor.ts";
import { checkpointDigest } from "../../checkpoint/digest.ts";
import type { TrainResult } from "../../backends/work.ts";
import type { CheckpointRow, NewCheckpoint } from "../../store/types.ts";
import { pinBackend } from "../backendChoice.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { TrainingRequest } from "../requests.ts";
import { planTraining } from "../trainingPlan.ts";
import { collect, ownBlobs } from "./collect.ts";

export const training: Handler<"training"> = async (request, context) => {
  const { store, settings, job } = context;
  const base = await store.checkpoints.get(request.checkpoint);
  const dataset = await store.datasets.get(request.dataset);
  const work = planTraining({
    request,
    checkpoint: await store.checkpoints.resolve(base),
    dataset: await store.datasets.resolve(dataset),
    seen: base.dataSeen[dataset.id] ?? 0,
    resume: job.resume,
    blobDir: settings.blobDir,
    saveEveryMs: settings.saveEveryMs,
    memoryBytes: settings.computeMemoryBytes,
  });
  const backend = await pinBackend(context);
  const keepOptimizer = work.keepOptimizerState;
  const made = await collect<TrainResult>(context.compute({ kind: "train", backend, work }), context, async (event) => {
    const { state, blobs, publish } = event;
    const checkpoint = publish && trained(request, context, base, { ...state, weights: publish }, keepOptimizer);
    const name = request.name === undefined ? null : `${request.name}-step-${state.step}`;
    await context.save(state, blobs, checkpoint && { ...checkpoint, name });
  });
  if (made === null) return "stopped";
  const { state, trainLoss, validationLoss } = made.result;
  return {
    checkpoint: { ...trained(request, context, base, state, keepOptimizer), blobs: ownBlobs(made.blobs) },
    result: ({ checkpoint }) => ({
      checkpoint: checkpoint?.id ?? null,
      tokens: state.tokens,
      flops: state.flops,
      steps: state.step,
      train_loss: trainLoss,
      validation_loss: validationLoss,
      backend,
    }),
  };
};

/** The checkpoint that a state of the training is. */
function trained(
  request: TrainingRequest,
  { job }: HandlerContext,
  base: CheckpointRow,
  state: TrainingState,
  keepOptimizer: boolean,
): NewCheckpoint {
  const hasMoments = state.optimizer.firstMoments.length > 0;
  const manifest: CheckpointManifest = {
    ...base.manifest,
    configJson: withDtype(base.manifest.configJson, request.dtype ?? "F32"),
    tensors: state.weights,
    original: null,
    optimizer: keepOptimizer && hasMoments ? state.optimizer : null,
    growthMask: maskAfter(base.manifest.config, base.manifest.growthMask, state.step),
  };
  return {
    ...{ name: request.name ?? null, manifest, digest: checkpointDigest(manifest) },
    ...{ relation: "trained", parents: [base.id], receipt: null, metadata: request.metadata ?? {}, job: job.id },
    tokensSeen: base.tokensSeen + state.tokens,
    flopsSpent: base.flopsSpent + state.flops,
    dataSeen: { ...base.dataSeen, [request.dataset]: state.position },
    blobs: [],
  };
}

const torchNames: Readonly<Record<Dtype, string>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/** What trained weights are stored in, whatever the base was; the configuration says so where it says anything. */
function withDtype(configJson: JsonObject, dtype: Dtype): JsonObject {
  const changed = { ...configJson };
  for (const field of ["torch_dtype", "dtype"])
    if (typeof changed[field] === "string") changed[field] = torchNames[dtype];
  return changed;
}
