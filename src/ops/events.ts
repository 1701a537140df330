/**
 * The one shape in which long work reports: an async stream of these events. They are stored once, by the
 * process that owns the database, and are the only way progress leaves an engine.
 */
import type { JsonObject, OptimizerRef } from "./manifest.ts";
import type { TensorRef } from "./tensor.ts";

/** One optimizer update, or a validation pass (then `validationLoss` is set). */
export interface MetricPoint {
  /** Optimizer updates made in this job so far, from 1. */
  readonly step: number;
  /** Tokens trained on in this job so far. */
  readonly tokens: number;
  /** FLOPs spent in this job so far: 6 x parameters x tokens (method of the paper, section B.2). */
  readonly flops: number;
  readonly loss: number | null;
  readonly learningRate: number | null;
  readonly gradNorm: number | null;
  readonly tokensPerSecond: number | null;
  readonly validationLoss: number | null;
}

/**
 * Everything a training needs to go on as if it had never stopped. Weights and moments are float32 blobs, but for
 * the weights at its end, which have the element type asked for; `position` counts tokens consumed from the dataset's
 * stream.
 */
export interface TrainingState {
  readonly step: number;
  readonly tokens: number;
  readonly flops: number;
  readonly position: number;
  readonly weights: readonly TensorRef[];
  readonly optimizer: OptimizerRef;
  /**
   * What the bytes depend on beside the request: how many sequences were summed at once, and which kernels
   * computed. A resumed run keeps the first and warns when the second is another.
   */
  readonly numerics?: { readonly microBatchSequences: number; readonly kernels: string };
  /** Carried for the result: the last training and validation losses. */
  readonly lastLoss: number | null;
  readonly lastValidationLoss: number | null;
  /** Step after which `lastValidationLoss` was taken; absent when there was none. */
  readonly lastValidationStep?: number;
}

/** Blobs a compute process has finished writing: they lie in the blob directory, not yet in the database. */
export interface NewBlob {
  readonly digest: string;
  readonly sizeBytes: number;
}

export type WorkEvent =
  | { readonly type: "log"; readonly level: "info" | "warn"; readonly message: string; readonly data?: JsonObject }
  | {
      readonly type: "progress";
      /** 0 to 1. */
      readonly fraction: number;
      readonly steps?: number;
      readonly totalSteps?: number;
      readonly tokens?: number;
      readonly etaSeconds?: number | null;
      /** What is being done now, for a person. */
      readonly message?: string;
    }
  | { readonly type: "metrics"; readonly point: MetricPoint }
  /**
   * A point from which the work can go on. `publish` asks for a checkpoint resource as well: its weights, which are
   * the state's own unless the training saves them in another element type.
   */
  | {
      readonly type: "saved";
      readonly state: TrainingState;
      readonly blobs: readonly NewBlob[];
      readonly publish: readonly TensorRef[] | null;
    }
  /** A piece of work done, from which a later attempt at the same work goes on. */
  | { readonly type: "part"; readonly data: JsonObject }
  /** Last event of work that ended well. */
  | { readonly type: "result"; readonly result: unknown; readonly blobs: readonly NewBlob[] }
  /** Last event of work that stopped because it was asked to. */
  | { readonly type: "stopped" };
