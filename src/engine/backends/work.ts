/**
 * What a backend is asked to do: requests with every reference resolved to local files, so that a compute
 * process needs no database. All are plain JSON: they cross a process boundary.
 */
import type { NewBlob, TrainingState } from "../../ops/events.ts";
import type { GrowthPlanRequest } from "../../ops/growth/index.ts";
import type { FileRef, JsonObject, ResolvedCheckpoint, ResolvedDataset } from "../../ops/manifest.ts";
import type { Dtype, TensorRef } from "../../ops/tensor.ts";

export interface OptimizerSettings {
  readonly type: "adamw";
  readonly learningRate: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  /** `matrices`: tensors of two or more axes, embedding included; `all`: every tensor (the paper's code). */
  readonly decay: "matrices" | "all";
  /** Global-norm clipping; null for none. */
  readonly clip: number | null;
}

export interface ScheduleSettings {
  readonly type: "cosine" | "wsd" | "constant";
  readonly warmupSteps: number;
  /** Steps over which cosine or wsd comes down; the run's own length unless given. */
  readonly totalSteps: number;
  readonly minLearningRate: number;
  /** wsd: the last `decaySteps` of `totalSteps` go down linearly. */
  readonly decaySteps: number;
}

/**
 * Operands of matrix products are rounded, all else is float32. `bf16`: to bfloat16; `mixed_f16`: to half precision,
 * with a loss scale that follows what overflows.
 */
export type ReducedPrecision = "bf16" | "mixed_f16";
export type Precision = "f32" | ReducedPrecision;

export interface TrainWork {
  /** f32 unless given. */
  readonly precision?: Precision;
  /** Element type of the weights of its checkpoints; F32 unless given. Resume points are float32 whatever it is. */
  readonly dtype?: Dtype;
  readonly checkpoint: ResolvedCheckpoint;
  readonly dataset: ResolvedDataset;
  /** Tokens to train on in all; the run has ceil(tokens / batchTokens) steps. */
  readonly tokens: number;
  readonly batchTokens: number;
  readonly sequenceLength: number;
  /** Sequences computed at once; a divisor of batchTokens / sequenceLength. Null: chosen from memory. */
  readonly microBatchSequences: number | null;
  readonly optimizer: OptimizerSettings;
  readonly schedule: ScheduleSettings;
  readonly seed: number;
  /** First token of the dataset's training stream to use. */
  readonly skipTokens: number;
  readonly validateEveryTokens: number | null;
  /** Validation tokens used in one pass, at most. */
  readonly validationTokens: number;
  /** Publishes a checkpoint each time that many tokens were passed. */
  readonly saveEveryTokens: number | null;
  /** A resume point at least this often, ms. */
  readonly saveEveryMs: number;
  readonly keepOptimizerState: boolean;
  /** Leaves the checkpoint's own moments aside. */
  readonly restartOptimizer?: boolean;
  /** Names of the tensors that change; the others keep their bytes. Absent: all. */
  readonly trainable?: readonly string[];
  /** Where to go on; null to start. */
  readonly resume: TrainingState | null;
  /** The blob directory, to write weights and moments into. */
  readonly blobDir: string;
  /** Bytes the compute process may take in all; absent where nobody sets a limit beside the backend's own. */
  readonly memoryBytes?: number;
}

/** Fits the expansion that a growth plans (`ops/growth`), by training the grown model; its result is a TrainResult. */
export interface FitWork extends Pick<TrainWork, "dataset" | "skipTokens" | "saveEveryMs" | "resume" | "blobDir"> {
  readonly source: ResolvedCheckpoint;
  /** The growth; it is planned again where it is needed. */
  readonly request: GrowthPlanRequest;
  /** Bytes the compute process may take in all; absent where nobody sets a limit beside the backend's own. */
  readonly memoryBytes?: number;
}

/** Result of a training, before it becomes a checkpoint resource. */
export interface TrainResult {
  readonly state: TrainingState;
  readonly trainLoss: number | null;
  readonly validationLoss: number | null;
}

export interface TaskData {
  readonly task: string;
  /** A local JSONL file, already confined to the import roots or made from an upload. */
  readonly path: string;
  /** The file that few-shot examples are drawn from, where the task takes them from another split. */
  readonly shotsPath?: string;
  /** Where the files came from, for the record. */
  readonly origin?: JsonObject;
}

export interface EvaluateWork {
  readonly checkpoint: ResolvedCheckpoint;
  readonly tasks: readonly TaskData[];
  /** First docs only; below 1 a fraction, as the harness takes it. */
  readonly limit: number | null;
  readonly bos: "none" | "tokenizer";
  readonly maxLength: number | null;
  readonly bootstrapIterations: number;
  /** Examples before each question; 0 unless given. */
  readonly numFewshot?: number;
  /** Begins the random stream that examples are drawn from; the harness's 1234 unless given. */
  readonly seed?: number;
  /** Name of the backend that computes, for the record. */
  readonly backend?: string;
  /** Name of the kernels that compute, for the record. */
  readonly kernels?: string;
  /** What earlier attempts have kept (`part` events). */
  readonly done?: readonly JsonObject[];
  /** The blob directory, to write the log of samples into; without it there is none. */
  readonly blobDir?: string;
}

/** The log of what was measured on each doc: one JSON object a line, docs in order. */
export interface SampleLogRef {
  readonly blob: NewBlob;
  readonly numSamples: number;
}

export interface TaskResult {
  readonly task: string;
  readonly version: string;
  readonly numDocs: number;
  /** Harness metric keys, e.g. `acc,none` and `acc_stderr,none`; `N/A` where the harness says so. */
  readonly metrics: Readonly<Record<string, number | string>>;
  readonly higherIsBetter: Readonly<Record<string, boolean>>;
  /** SHA-256 of the task file. */
  readonly datasetDigest: string;
  readonly settings: JsonObject;
  /** Present where the work has a blob directory. */
  readonly samples?: SampleLogRef;
}

export interface EvaluateResult {
  readonly results: readonly TaskResult[];
}

export interface CompareWork {
  readonly source: ResolvedCheckpoint;
  readonly target: ResolvedCheckpoint;
  readonly seed: number;
  /** Probe batch: sequences x positions of seeded ids. */
  readonly sequences: number;
  readonly positions: number;
}

export interface CompareResult {
  readonly maxAbsLogitChange: number;
  readonly rmsLogitChange: number;
  readonly dtype: "float32";
  readonly probeTokens: number;
}

/** Where the weights of a random checkpoint come from; run in a compute process because it may be large. */
export interface InitializeWork {
  readonly configJson: JsonObject;
  readonly seed: number;
  readonly blobDir: string;
}

export interface InitializeResult {
  readonly tensors: readonly TensorRef[];
}

export type { FileRef };
