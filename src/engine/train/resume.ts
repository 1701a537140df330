/**
 * Writing a training down and taking it up again, exactly: weights and moments go as float32, as they are
 * computed with, and the data stream by its position, so that a run stopped after any step ends with the bytes
 * it would have had. What becomes a checkpoint may be rounded to another element type, which nothing goes on from
 * within the run. Tensors that are not trained are read from the checkpoint and never written: every state
 * refers to the checkpoint's bytes. Weights and moments are separate blobs: a checkpoint that keeps no optimizer
 * state then keeps no bytes of it.
 */
import { stat } from "node:fs/promises";
import * as tf from "@tensorflow/tfjs";
import { infiniteFrom } from "../../ops/dtype.ts";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob, TrainingState } from "../../ops/events.ts";
import type { BlobLocation, OptimizerRef } from "../../ops/manifest.ts";
import { trainingFlops } from "../../ops/planner/flops.ts";
import type { Dtype, TensorRef } from "../../ops/tensor.ts";
import type { TrainWork } from "../backends/work.ts";
import { blobLocation, blobPath } from "../checkpoint/blobs.ts";
import { readTensors } from "../checkpoint/tensorReader.ts";
import { writeTensors, type WrittenTensors } from "../checkpoint/writer.ts";
import type { Kernels } from "../kernels/kernels.ts";
import type { MomentValues } from "./adamw.ts";
import { AdamW } from "./adamw.ts";
import { deriveModel } from "./deriveModel.ts";
import { LossScale } from "./lossScale.ts";
import type { Progress, Run } from "./run.ts";

type Blobs = Readonly<Record<string, BlobLocation>>;

/**
 * Loads where `work` says: its resume point, or its checkpoint. Moments that came with the checkpoint are
 * gone on from; else the optimizer starts afresh.
 * @throws checkpoint_corrupt, source_changed
 */
export async function startRun(work: TrainWork, kernels: Kernels, microSequences: number): Promise<Run> {
  const { checkpoint, resume } = work;
  const { config, tensors: refs, growthMask } = checkpoint.manifest;
  const isTrained = trainedNames(work);
  const frozenRefs = refs.filter(({ name }) => !isTrained(name));
  const trainedRefs = (resume?.weights ?? refs).filter(({ name }) => isTrained(name));
  const own = work.restartOptimizer === true ? null : checkpoint.manifest.optimizer;
  const optimizer = trainedMoments(resume?.optimizer ?? own, isTrained);
  const moments = optimizer ? [...optimizer.firstMoments, ...optimizer.secondMoments] : [];
  const blobs = resume ? await locateBlobs(work.blobDir, [...trainedRefs, ...moments]) : checkpoint.blobs;
  const weights = new Map<string, tf.Variable>();
  const frozen = new Map<string, tf.Tensor>();
  try {
    await eachTensor(trainedRefs, blobs, (name, tensor) => {
      weights.set(name, tf.variable(tensor, true));
      tensor.dispose();
    });
    await eachTensor(frozenRefs, checkpoint.blobs, (name, tensor) => frozen.set(name, tensor));
    const names = refs.map(({ name }) => name).filter(isTrained);
    const ordered = new Map(names.map((name) => [name, weightNamed(weights, name)]));
    const progress: Progress = {
      step: resume?.step ?? 0,
      tokens: resume?.tokens ?? 0,
      position: resume?.position ?? work.skipTokens,
      lastLoss: resume?.lastLoss ?? null,
      lastValidationLoss: resume?.lastValidationLoss ?? null,
      lastValidationStep: resume?.lastValidationStep ?? null,
    };
    const derive = deriveModel({ config, frozen, mask: growthMask ?? null, progress });
    return {
      ...{ kernels, config, frozen, refs, microSequences, progress, weights: ordered },
      ...(derive === null ? {} : { derive }),
      optimizer: await loadOptimizer(work, kernels, ordered, optimizer, blobs),
      lossScale: new LossScale(kernels.deferred?.scalesLoss ?? false, optimizer?.lossScale ?? null),
    };
  } catch (error) {
    tf.dispose([...weights.values(), ...frozen.values()]);
    throw error;
  }
}

function trainedNames({ trainable }: TrainWork): (name: string) => boolean {
  if (trainable === undefined) return () => true;
  const names = new Set(trainable);
  return (name) => names.has(name);
}

/** Moments of tensors that do not change are neither loaded nor kept. */
function trainedMoments(optimizer: OptimizerRef | null, isTrained: (name: string) => boolean): OptimizerRef | null {
  if (optimizer === null) return null;
  const firstMoments = optimizer.firstMoments.filter(({ name }) => isTrained(name));
  const secondMoments = optimizer.secondMoments.filter(({ name }) => isTrained(name));
  return { ...optimizer, firstMoments, secondMoments };
}

export interface SaveOptions {
  /** False at the end of a run whose optimizer state nobody wants: the lists are then empty. */
  readonly withMoments: boolean;
  /** Element type of the weights: F32, as it is unless given, where the run may go on from them. */
  readonly dtype?: Dtype;
}

/**
 * Writes the run's state as blobs.
 * @throws diverged when a weight is not finite: such a state is worth nothing; as `saveWeights`
 */
export async function saveRun(
  run: Run,
  blobDir: string,
  { withMoments, dtype = "F32" }: SaveOptions,
): Promise<{ state: TrainingState; blobs: NewBlob[] }> {
  const { progress, config, optimizer } = run;
  const lossScale = await run.lossScale.state();
  const weights = await saveWeights(run, blobDir, dtype);
  const first = withMoments ? await writeAll(blobDir, optimizer.first, progress.step) : null;
  const second = withMoments ? await writeAll(blobDir, optimizer.second, progress.step) : null;
  const state: TrainingState = {
    step: progress.step,
    tokens: progress.tokens,
    flops: trainingFlops(config, progress.tokens),
    position: progress.position,
    weights: weights.tensors,
    optimizer: {
      type: "adamw",
      step: optimizer.step,
      firstMoments: first?.tensors ?? [],
      secondMoments: second?.tensors ?? [],
      ...(lossScale === null ? {} : { lossScale }),
    },
    numerics: { microBatchSequences: run.microSequences, kernels: run.kernels.name },
    lastLoss: progress.lastLoss,
    lastValidationLoss: progress.lastValidationLoss,
    ...(progress.lastValidationStep === null ? {} : { lastValidationStep: progress.lastValidationStep }),
  };
  return { state, blobs: [weights, first, second].flatMap((written) => (written ? [written.blob] : [])) };
}

/**
 * Writes the run's weights alone, rounded to nearest, ties to even.
 * @returns all tensors of the model: those that are not trained as they are
 * @throws diverged; unprocessable where an element type is too narrow for a weight; storage_full
 */
export async function saveWeights(run: Run, blobDir: string, dtype: Dtype): Promise<WrittenTensors> {
  const { tensors, blob } = await writeAll(blobDir, run.weights, run.progress.step, dtype);
  return { tensors: withFrozen(run.refs, tensors), blob };
}

/** What was written, and the checkpoint's own references where nothing was. */
function withFrozen(refs: readonly TensorRef[], written: readonly TensorRef[]): readonly TensorRef[] {
  const byName = new Map(written.map((tensor) => [tensor.name, tensor]));
  return refs.map((tensor) => byName.get(tensor.name) ?? tensor);
}

/** One file of tensors, read back from the backend one at a time. */
function writeAll(
  blobDir: string,
  tensors: ReadonlyMap<string, tf.Tensor>,
  step: number,
  dtype: Dtype = "F32",
): Promise<WrittenTensors> {
  return writeTensors(
    blobDir,
    [...tensors].map(([name, tensor]) => ({
      info: { name, dtype, shape: tensor.shape },
      data: async () => checked((await tensor.data()) as Float32Array, name, step, dtype),
    })),
  );
}

/** @returns the values, which stay finite in `dtype`. @throws diverged, unprocessable */
function checked(values: Float32Array, name: string, step: number, dtype: Dtype): Float32Array {
  const details = { step, tensor: name };
  if (!values.every(Number.isFinite)) {
    const problem = `${name} holds a value that is not finite`;
    throw new CodedError("diverged", `training diverged at step ${step}: ${problem}`, { details });
  }
  const limit = infiniteFrom(dtype);
  const large = values.find((value) => Math.abs(value) >= limit);
  if (large === undefined) return values;
  const problem = `step ${step}: ${name} holds ${large}, which is too large for dtype ${dtype}`;
  throw new CodedError("unprocessable", `${problem}; wanted F32`, { details });
}

async function loadOptimizer(
  work: TrainWork,
  kernels: Kernels,
  weights: ReadonlyMap<string, tf.Variable>,
  optimizer: OptimizerRef | null,
  blobs: Blobs,
): Promise<AdamW> {
  if (!optimizer) return new AdamW(kernels, work.optimizer, weights, null);
  const first = new Map<string, tf.Tensor>();
  const second = new Map<string, tf.Tensor>();
  try {
    await eachTensor(optimizer.firstMoments, blobs, (name, tensor) => first.set(name, tensor));
    await eachTensor(optimizer.secondMoments, blobs, (name, tensor) => second.set(name, tensor));
    const moments: MomentValues = { step: optimizer.step, first, second };
    return new AdamW(kernels, work.optimizer, weights, moments);
  } finally {
    tf.dispose([...first.values(), ...second.values()]);
  }
}

async function eachTensor(
  refs: readonly TensorRef[],
  blobs: Blobs,
  receive: (name: string, tensor: tf.Tensor) => void,
): Promise<void> {
  for await (const { info, values } of readTensors(blobs, refs)) {
    receive(info.name, tf.tensor(values, [...info.shape], "float32"));
  }
}

function weightNamed(weights: ReadonlyMap<string, tf.Variable>, name: string): tf.Variable {
  const weight = weights.get(name);
  if (weight) return weight;
  throw new CodedError("checkpoint_corrupt", `the resume point has no tensor ${name}`);
}

/** Blobs of a resume point lie in the blob directory; the sizes are those of the files. */
async function locateBlobs(blobDir: string, refs: readonly TensorRef[]): Promise<Blobs> {
  const blobs: Record<string, BlobLocation> = {};
  for (const digest of new Set(refs.map(({ blob }) => blob))) {
    const path = blobPath(blobDir, digest);
    const stats = await stat(path).catch(() => null);
    if (!stats) throw new CodedError("checkpoint_corrupt", `the resume point's blob ${digest} is gone`);
    blobs[digest] = blobLocation(blobDir, { digest, sizeBytes: stats.size });
  }
  return blobs;
}
