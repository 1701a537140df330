/**
 * What each kind of job is asked to do. These are the request bodies of the API, verbatim and with their
 * defaults filled in, as they are stored with the job; `api/` checks at compile time that the contract's
 * types fit them.
 */
import type { JsonObject } from "../../ops/manifest.ts";
import type { Dtype } from "../../ops/tensor.ts";
import type { Precision } from "../backends/work.ts";

export type TokenizerChoice = "bytes" | { checkpoint: string };

export type CheckpointSource =
  | { type: "directory"; path: string; mode?: "reference" | "copy" }
  | { type: "upload"; upload: string | string[] }
  | { type: "hub"; repository: string; revision?: string }
  | { type: "random"; config: JsonObject; seed?: number; tokenizer?: TokenizerChoice };

export interface ImportRequest {
  name?: string;
  source: CheckpointSource;
  metadata?: JsonObject;
}

export interface GrowthRequest {
  checkpoint: string;
  /** Operator and axis are left out where `params.steps` gives those of each step. */
  operator?: string;
  axis?: "depth" | "width";
  factor?: number;
  params?: JsonObject;
  seed?: number;
  optimizer_state?: "drop" | "grow";
  verify?: boolean;
  name?: string;
  metadata?: JsonObject;
}

export type DatasetSource =
  | { type: "directory"; path: string }
  | { type: "upload"; upload: string | string[] }
  | { type: "text"; text: string | string[] };

export interface DatasetRequest {
  name: string;
  source: DatasetSource;
  tokenizer: TokenizerChoice;
  validation_fraction?: number;
  seed?: number;
  metadata?: JsonObject;
}

export interface TrainingRequest {
  checkpoint: string;
  dataset: string;
  backend?: string;
  /** Of the operands of matrix products; f32 unless given. */
  precision?: Precision;
  /** Of the trained weights as they are saved; F32 unless given. */
  dtype?: Dtype;
  tokens: number;
  batch_tokens: number;
  sequence_length: number;
  micro_batch_sequences?: number;
  optimizer?: {
    type?: "adamw";
    learning_rate?: number;
    betas?: number[];
    eps?: number;
    weight_decay?: number;
    decay?: "matrices" | "all";
    clip?: number | null;
  };
  schedule?: {
    type?: "cosine" | "wsd" | "constant";
    warmup_steps?: number;
    total_steps?: number;
    decay_steps?: number;
    min_learning_rate?: number;
  };
  seed?: number;
  skip_tokens?: number;
  validate_every_tokens?: number;
  validation_tokens?: number;
  save_every_tokens?: number;
  keep_optimizer_state?: boolean;
  /** What to do with the checkpoint's moments; gone on from where it has them, unless given. */
  optimizer_state?: "continue" | "restart";
  trainable?: TrainableChoice;
  name?: string;
  metadata?: JsonObject;
}

/** Where the docs of a task come from. */
export type TaskDataSource =
  | { type: "directory" }
  | { type: "upload"; upload: string; fewshot_upload?: string }
  | { type: "hub"; revision?: string };

export interface EvaluationRequest {
  checkpoint: string;
  tasks: string[];
  /** By task; from BENCHMARKS_DIR, or what was fetched from the hub before, unless given. */
  data?: { [task: string]: TaskDataSource };
  limit?: number;
  num_fewshot?: number;
  /** Of the examples. */
  seed?: number;
  bos?: "none" | "tokenizer";
  max_length?: number;
  backend?: string;
  bootstrap_iterations?: number;
}

/** Which tensors a training changes: all, what the last growth added, or those that name patterns (`*`) match. */
export type TrainableChoice = "all" | "new_layers" | "new_parameters" | string[];

/** Kind of job -> what it is asked. */
export interface JobRequests {
  checkpoint_import: ImportRequest;
  growth: GrowthRequest;
  dataset_build: DatasetRequest;
  training: TrainingRequest;
  /** `evaluation` is the id of the evaluation's own row, given when the job is queued. */
  evaluation: EvaluationRequest & { evaluation?: string };
}

export type JobKind = keyof JobRequests;
