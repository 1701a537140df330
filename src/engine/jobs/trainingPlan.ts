/**
 * From a training request to the work of a backend: defaults, and what can be known to be impossible before
 * anything runs. Defaults follow the paper's recipe (section B.1): AdamW with betas (0.9, 0.95), weight decay
 * 0.1, clipping at 1, cosine down to a tenth of the peak.
 */
import { CodedError } from "../../ops/errors.ts";
import type { TrainingState } from "../../ops/events.ts";
import type { ResolvedCheckpoint, ResolvedDataset } from "../../ops/manifest.ts";
import type { TrainWork } from "../backends/work.ts";
import type { CheckpointRow, DatasetRow } from "../store/types.ts";
import { estimateTrainingMemory } from "../train/memory.ts";
import type { TrainingRequest } from "./requests.ts";
import { trainableTensors } from "./trainable.ts";

const defaults = {
  learningRate: 3e-4,
  betas: [0.9, 0.95] as const,
  eps: 1e-8,
  weightDecay: 0.1,
  clip: 1,
  /** Share of the run that wsd spends going down. */
  wsdDecayShare: 0.1,
  /** Share of the peak that a cosine or wsd ends at. */
  minLearningRateShare: 0.1,
  validationTokens: 65_536,
};

/** Steps of one training, at most. */
const maxSteps = 100_000_000;

function refuse(pointer: string, detail: string): CodedError {
  return new CodedError("unprocessable", `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

/** @throws unprocessable, with a pointer, when the request cannot be carried out on this model and data */
export function checkTraining(request: TrainingRequest, checkpoint: CheckpointRow, dataset: DatasetRow): void {
  const { config } = checkpoint.manifest;
  const { manifest: data } = dataset;
  const { sequence_length: sequenceLength, batch_tokens: batchTokens } = request;
  if (sequenceLength > config.maxPositionEmbeddings) {
    throw refuse("/sequence_length", `is ${sequenceLength}; the model has ${config.maxPositionEmbeddings} positions`);
  }
  if (batchTokens < sequenceLength || batchTokens % sequenceLength !== 0) {
    throw refuse("/batch_tokens", `is ${batchTokens}; wanted a multiple of sequence_length, ${sequenceLength}`);
  }
  const sequences = batchTokens / sequenceLength;
  const micro = request.micro_batch_sequences;
  if (micro !== undefined && sequences % micro !== 0) {
    throw refuse("/micro_batch_sequences", `is ${micro}; wanted a divisor of the batch's ${sequences} sequences`);
  }
  if (Math.ceil(request.tokens / batchTokens) > maxSteps) {
    throw refuse("/tokens", `is ${request.tokens}, which is more than ${maxSteps} steps`);
  }
  if (data.vocabSize > config.vocabSize) {
    throw refuse("/dataset", `has token ids below ${data.vocabSize}; the model's vocabulary has ${config.vocabSize}`);
  }
  if (data.numTokens < sequenceLength + 1) {
    throw refuse(
      "/dataset",
      `has ${data.numTokens} training tokens, fewer than one sequence of ${sequenceLength} needs`,
    );
  }
  if (request.optimizer_state === "continue" && checkpoint.manifest.optimizer === null) {
    throw refuse("/optimizer_state", `is continue, but ${checkpoint.id} has no optimizer state`);
  }
  trainableTensors(request.trainable ?? "all", checkpoint.manifest);
  const { betas } = request.optimizer ?? {};
  if (betas !== undefined && (betas.length !== 2 || betas.some((beta) => !(beta >= 0 && beta < 1)))) {
    throw refuse("/optimizer/betas", "wanted two numbers from 0 to below 1");
  }
}

/** @returns bytes that the training takes at least, about: with as few sequences at once as the request allows. */
export function trainingBytes(request: TrainingRequest, { manifest }: CheckpointRow): number {
  return estimateTrainingMemory(manifest.config, request.micro_batch_sequences ?? 1, request.sequence_length);
}

export interface TrainingInputs {
  readonly request: TrainingRequest;
  readonly checkpoint: ResolvedCheckpoint;
  readonly dataset: ResolvedDataset;
  /** Tokens of this dataset's stream that the checkpoint's lineage has consumed: where it goes on by default. */
  readonly seen: number;
  readonly resume: TrainingState | null;
  readonly blobDir: string;
  readonly saveEveryMs: number;
  /** Resident memory that the compute process may take. */
  readonly memoryBytes: number;
}

/** @returns the request with every default filled in. */
export function planTraining(inputs: TrainingInputs): TrainWork {
  const { request, checkpoint, dataset, resume, blobDir, saveEveryMs, memoryBytes } = inputs;
  const { optimizer = {}, schedule = {} } = request;
  const learningRate = optimizer.learning_rate ?? defaults.learningRate;
  const [beta1, beta2] = optimizer.betas ?? defaults.betas;
  const runSteps = Math.ceil(request.tokens / request.batch_tokens);
  const totalSteps = schedule.total_steps ?? runSteps;
  const type = schedule.type ?? "cosine";
  const trainable = trainableTensors(request.trainable ?? "all", checkpoint.manifest);
  const hasValidation = dataset.manifest.numValidationTokens > request.sequence_length;
  return {
    ...{ checkpoint, dataset, resume, blobDir, saveEveryMs, memoryBytes },
    precision: request.precision ?? "f32",
    dtype: request.dtype ?? "F32",
    tokens: request.tokens,
    batchTokens: request.batch_tokens,
    sequenceLength: request.sequence_length,
    microBatchSequences: request.micro_batch_sequences ?? null,
    optimizer: {
      type: "adamw",
      learningRate,
      betas: [beta1 ?? defaults.betas[0], beta2 ?? defaults.betas[1]],
      eps: optimizer.eps ?? defaults.eps,
      weightDecay: optimizer.weight_decay ?? defaults.weightDecay,
      decay: optimizer.decay ?? "matrices",
      clip: optimizer.clip === undefined ? defaults.clip : optimizer.clip,
    },
    schedule: {
      type,
      warmupSteps: schedule.warmup_steps ?? 0,
      totalSteps,
      minLearningRate: schedule.min_learning_rate ?? learningRate * defaults.minLearningRateShare,
      decaySteps: schedule.decay_steps ?? Math.max(1, Math.round(totalSteps * defaults.wsdDecayShare)),
    },
    seed: request.seed ?? 0,
    skipTokens: request.skip_tokens ?? inputs.seen,
    validateEveryTokens: hasValidation ? (request.validate_every_tokens ?? null) : null,
    validationTokens: request.validation_tokens ?? defaults.validationTokens,
    saveEveryTokens: request.save_every_tokens ?? null,
    keepOptimizerState: request.keep_optimizer_state ?? false,
    restartOptimizer: request.optimizer_state === "restart",
    ...(trainable === null ? {} : { trainable }),
  };
}
