/**
 * Fits a learned expansion: a training like any other, with the same events, saves and resume, whose weights are the
 * expansion's parameters and whose model is the grown one, made of them anew in every pass. The source's weights stay
 * as they are. What comes out are the parameters; the grown tensors are made from them afterwards, once.
 *
 * Tokens and FLOPs are those of the grown model: it is what is run.
 */
import { invariant } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import { planGrowth, type ExpansionFit, type GrowthPlan } from "../../ops/growth/index.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { TensorInfo } from "../../ops/tensor.ts";
import type { FitWork, TrainWork } from "../backends/work.ts";
import { blobLocation } from "../checkpoint/blobs.ts";
import { writeTensors, type WrittenTensors } from "../checkpoint/writer.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { disposeWeights, loadWeights } from "../model/weights.ts";
import { expandWeights } from "./expandWeights.ts";
import { train, type TrainOptions } from "./trainer.ts";

/** As in every training. */
const adamEps = 1e-8;
/** Held-out tokens that the fitted model is scored on, at most. */
const validationTokens = 65_536;

/**
 * @returns the events of a training; the result's `state.weights` are the expansion's parameters
 * @throws as `train` does
 */
export async function* fitExpansion(
  work: FitWork,
  kernels: Kernels,
  signal: AbortSignal,
  options: TrainOptions,
): AsyncGenerator<WorkEvent, void, undefined> {
  const plan = planGrowth(work.source.manifest, work.request);
  const { fit, targetConfig: target } = plan;
  invariant(fit, "a growth that is fitted has something to learn");
  const start = await startingPoint(work, plan, fit);
  const source = await loadWeights(work.source);
  try {
    const model = { kernels, expansion: fit.expansion, target, source };
    const derive: TrainOptions["derive"] = (parameters) => expandWeights(model, parameters);
    yield* train(trainWork(work, start, fit), kernels, signal, { ...options, derive });
  } finally {
    disposeWeights(source);
  }
}

/** The parameters as a checkpoint of the grown model's configuration: written down, or where the fit was left. */
async function startingPoint(
  work: FitWork,
  plan: GrowthPlan,
  { expansion }: ExpansionFit,
): Promise<ResolvedCheckpoint> {
  const { resume, blobDir } = work;
  const written = resume === null ? await writeInitial(blobDir, expansion.parameters) : null;
  const { architecture } = work.source.manifest;
  return {
    id: work.source.id,
    manifest: {
      ...{ architecture, config: plan.targetConfig, configJson: {}, files: [] },
      ...{ tensors: written?.tensors ?? resume?.weights ?? [], original: null, optimizer: null },
    },
    blobs: written === null ? {} : { [written.blob.digest]: blobLocation(blobDir, written.blob) },
  };
}

function writeInitial(blobDir: string, parameters: ExpansionFit["expansion"]["parameters"]): Promise<WrittenTensors> {
  return writeTensors(
    blobDir,
    parameters.map(({ name, shape, initial }) => {
      const info: TensorInfo = { name, dtype: "F32", shape };
      return { info, data: initial };
    }),
  );
}

function trainWork(work: FitWork, checkpoint: ResolvedCheckpoint, { settings }: ExpansionFit): TrainWork {
  const { dataset, skipTokens, saveEveryMs, resume, blobDir, memoryBytes } = work;
  const { steps, batchTokens, sequenceLength, microBatchSequences, learningRate, betas, weightDecay, clip } = settings;
  const { warmupSteps, minLearningRate } = settings;
  return {
    ...{ checkpoint, dataset, skipTokens, saveEveryMs, resume, blobDir },
    ...{ tokens: steps * batchTokens, batchTokens, sequenceLength, microBatchSequences },
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    optimizer: { type: "adamw", learningRate, betas, eps: adamEps, weightDecay, decay: "matrices", clip },
    schedule: { type: "cosine", warmupSteps, totalSteps: steps, minLearningRate, decaySteps: 0 },
    ...{ seed: 0, validationTokens, validateEveryTokens: null, saveEveryTokens: null, keepOptimizerState: false },
  };
}
