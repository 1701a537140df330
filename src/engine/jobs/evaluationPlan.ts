/** From an evaluation request to the work of a backend: which task is in which file, and defaults. */
import { CodedError } from "../../ops/errors.ts";
import { tokenizerOf, type JsonObject, type ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { EvaluateWork, TaskData } from "../backends/work.ts";
import { checkNumFewshot, checkSeed, fewshotSeed } from "../eval/fewshot.ts";
import type { Settings } from "../settings.ts";
import type { CheckpointRow } from "../store/types.ts";
import type { EvaluationRequest } from "./requests.ts";
import { findTaskData } from "./taskData.ts";

/** As lm-evaluation-harness: enough for a standard error, and quick. */
const defaultBootstrapIterations = 100_000;

function refuse(code: "invalid_request" | "unprocessable", pointer: string, detail: string): CodedError {
  return new CodedError(code, `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

/** @throws invalid_request, not_found, unprocessable, conflict for an unfinished upload; with pointers */
export async function checkEvaluation(
  request: EvaluationRequest,
  checkpoint: CheckpointRow,
  settings: Settings,
): Promise<void> {
  if (tokenizerOf(checkpoint.id, checkpoint.manifest) === null) {
    throw refuse("unprocessable", "/checkpoint", `${checkpoint.id} has no tokenizer, which every task needs`);
  }
  if (new Set(request.tasks).size !== request.tasks.length)
    throw refuse("invalid_request", "/tasks", "names a task twice");
  const context = checkpoint.manifest.config.maxPositionEmbeddings;
  if (request.max_length !== undefined && request.max_length > context) {
    throw refuse("unprocessable", "/max_length", `is ${request.max_length}; the model's context is ${context}`);
  }
  checkNumFewshot(request.num_fewshot ?? 0);
  checkSeed(request.seed ?? fewshotSeed);
  await findTaskData(request, settings);
}

/** What an evaluation is given beside its request. */
export interface EvaluationParts {
  readonly checkpoint: ResolvedCheckpoint;
  readonly tasks: readonly TaskData[];
  readonly backend: string;
  readonly blobDir: string;
  /** What earlier attempts have kept. */
  readonly done: readonly JsonObject[];
}

/** @returns the request with every default filled in. */
export function planEvaluation(request: EvaluationRequest, parts: EvaluationParts): EvaluateWork {
  return {
    ...parts,
    limit: request.limit ?? null,
    bos: request.bos ?? "none",
    maxLength: request.max_length ?? null,
    bootstrapIterations: request.bootstrap_iterations ?? defaultBootstrapIterations,
    numFewshot: request.num_fewshot ?? 0,
    seed: request.seed ?? fewshotSeed,
  };
}
