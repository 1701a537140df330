/**
 * The parameters of a learned growth that concern its fit: data, number of steps, optimizer. The defaults are those
 * of the paper's authors: 100 steps of 1024 sequences of 2048 tokens, AdamW at 7e-5 falling to 7e-6 after half the
 * run as warm-up, weight decay 0.1, betas (0.9, 0.95), clipping at 1.
 * Source: the authors' answer in issue 2 of their repository (method section 1.5, A9 of section 10).
 */
import type { LlamaConfig } from "../architectures/llamaConfig.ts";
import type { JsonObject } from "../manifest.ts";
import { given, impossible, malformed, optionalInteger, optionalNumber, type UnreadParams } from "./params.ts";

/** How the expansion is fitted. */
export interface FitSettings {
  /** Id or name; null where not given, which only a plan may leave open. */
  readonly dataset: string | null;
  /** Where it is computed; null for the service's choice. */
  readonly backend: string | null;
  /** Optimizer updates; 0 leaves the expansion as it starts. */
  readonly steps: number;
  readonly batchTokens: number;
  readonly sequenceLength: number;
  readonly microBatchSequences: number | null;
  /** First token of the dataset's stream; null to go on where the source's training ended. */
  readonly skipTokens: number | null;
  readonly learningRate: number;
  readonly minLearningRate: number;
  readonly warmupSteps: number;
  readonly weightDecay: number;
  readonly betas: readonly [number, number];
  /** Global-norm clipping; null for none. */
  readonly clip: number | null;
}

const maxSteps = 1_000_000;
const maxTokens = 2 ** 40;
const maxNameLength = 200;
const authors = { steps: 100, sequences: 1024, sequenceLength: 2048, warmupSteps: 50, learningRate: 7e-5 };

/** JSON Schema of each parameter. */
export const fitFields = {
  dataset: {
    description: "Dataset that the expansion is fitted on: id or name. Needed where fit_steps is above 0.",
    type: "string",
    minLength: 1,
    maxLength: maxNameLength,
  },
  backend: { description: "Backend of the fit.", type: "string", minLength: 1, maxLength: maxNameLength },
  fit_steps: {
    description: "Optimizer updates of the expansion. 0 leaves it as it starts; along depth that is G_stack.",
    type: "integer",
    minimum: 0,
    maximum: maxSteps,
    default: authors.steps,
  },
  batch_tokens: {
    description: "Tokens of an update, a multiple of sequence_length. By default 1024 sequences.",
    type: "integer",
    minimum: 1,
    maximum: maxTokens,
  },
  sequence_length: {
    description: "By default 2048, or the model's positions where it has fewer.",
    type: "integer",
    minimum: 1,
    maximum: maxTokens,
  },
  micro_batch_sequences: {
    description: "Sequences computed at once.",
    type: "integer",
    minimum: 1,
    maximum: maxTokens,
  },
  skip_tokens: {
    description: "First token of the dataset's stream. By default where the source's training ended.",
    type: "integer",
    minimum: 0,
    maximum: maxTokens,
  },
  learning_rate: { type: "number", minimum: 0, maximum: 1, default: authors.learningRate },
  min_learning_rate: { description: "By default a tenth of learning_rate.", type: "number", minimum: 0, maximum: 1 },
  warmup_steps: {
    description: "By default 50, or half the steps where they are fewer than 100.",
    type: "integer",
    minimum: 0,
    maximum: maxSteps,
  },
  weight_decay: { type: "number", minimum: 0, maximum: 10, default: 0.1 },
  betas: {
    type: "array",
    minItems: 2,
    maxItems: 2,
    items: { type: "number", minimum: 0, exclusiveMaximum: 1 },
    default: [0.9, 0.95],
  },
  clip: { description: "Largest norm of the gradient; null for none.", type: ["number", "null"], default: 1 },
} satisfies Record<string, JsonObject>;

/** @throws invalid_request, unprocessable; both name the field */
export function readFitSettings(config: LlamaConfig, params: UnreadParams): FitSettings {
  const steps = optionalInteger(params, "fit_steps", 0, maxSteps) ?? authors.steps;
  const positions = config.maxPositionEmbeddings;
  const sequenceLength =
    optionalInteger(params, "sequence_length", 1, maxTokens) ?? Math.min(authors.sequenceLength, positions);
  if (sequenceLength > positions) {
    throw impossible(`${params.pointer}/sequence_length`, `is ${sequenceLength}; the model has ${positions} positions`);
  }
  const batchTokens = optionalInteger(params, "batch_tokens", 1, maxTokens) ?? authors.sequences * sequenceLength;
  if (batchTokens % sequenceLength !== 0) {
    const detail = `is ${batchTokens}; wanted a multiple of sequence_length, ${sequenceLength}`;
    throw impossible(`${params.pointer}/batch_tokens`, detail);
  }
  const micro = optionalInteger(params, "micro_batch_sequences", 1, maxTokens) ?? null;
  const sequences = batchTokens / sequenceLength;
  if (micro !== null && sequences % micro !== 0) {
    const detail = `is ${micro}; wanted a divisor of the batch's ${sequences} sequences`;
    throw impossible(`${params.pointer}/micro_batch_sequences`, detail);
  }
  const learningRate = optionalNumber(params, "learning_rate", 0, 1, authors.learningRate);
  return {
    ...{ steps, batchTokens, sequenceLength, microBatchSequences: micro, learningRate },
    dataset: optionalName(params, "dataset"),
    backend: optionalName(params, "backend"),
    skipTokens: optionalInteger(params, "skip_tokens", 0, maxTokens) ?? null,
    minLearningRate: optionalNumber(params, "min_learning_rate", 0, 1, learningRate / 10),
    warmupSteps:
      optionalInteger(params, "warmup_steps", 0, maxSteps) ?? Math.min(authors.warmupSteps, Math.floor(steps / 2)),
    weightDecay: optionalNumber(params, "weight_decay", 0, 10, 0.1),
    betas: readBetas(params),
    clip: readClip(params),
  };
}

function optionalName(params: UnreadParams, name: string): string | null {
  const value = given(params, name);
  if (value === undefined) return null;
  if (typeof value === "string" && value.length > 0 && value.length <= maxNameLength) return value;
  throw malformed(`${params.pointer}/${name}`, value, `a name of 1 to ${maxNameLength} characters`);
}

function readBetas(params: UnreadParams): [number, number] {
  const value = given(params, "betas") ?? [0.9, 0.95];
  const legal = (beta: unknown): beta is number => typeof beta === "number" && beta >= 0 && beta < 1;
  if (Array.isArray(value) && value.length === 2 && value.every(legal)) return [value[0]!, value[1]!];
  throw malformed(`${params.pointer}/betas`, value, "two numbers from 0 to below 1");
}

function readClip(params: UnreadParams): number | null {
  const value = given(params, "clip");
  if (value === null) return null;
  if (value === undefined) return 1;
  if (typeof value === "number" && value > 0 && Number.isFinite(value)) return value;
  throw malformed(`${params.pointer}/clip`, value, "a number above 0, or null");
}
