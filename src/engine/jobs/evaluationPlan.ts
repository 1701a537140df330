/** From an evaluation request to the work of a backend: which task is in which file, and defaults. */
import { CodedError } from "../../ops/errors.ts";
import { tokenizerOf, type JsonObject, type ResolvedCheckpoint } from "../../ops/manifest.ts";
import { getBackend, listBackends } from "../backends/index.ts";
import type { EvaluateWork, TaskData } from "../backends/work.ts";
import { checkNumFewshot, checkSeed, fewshotSeed } from "../eval/fewshot.ts";
import { estimateServingMemory } from "../infer/servingMemory.ts";
import type { Settings } from "../settings.ts";
import type { CheckpointRow } from "../store/types.ts";
import type { WorkerBackend } from "../store/workerTypes.ts";
import type { EvaluationRequest } from "./requests.ts";
import { backendFor, selectorOf } from "./selector.ts";
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

/**
 * @param backends what computes here; null where workers do, of which nothing is known
 * @returns bytes that the model takes on the backend that will score it: fewer where bfloat16 stays in 16 bits
 */
export function evaluationBytes(
  request: EvaluationRequest,
  { manifest }: Pick<CheckpointRow, "manifest">,
  backends: readonly WorkerBackend[] | null,
): number {
  const bytes = (name: string): number => estimateServingMemory(manifest, getBackend(name).keepsHalf);
  const known = listBackends().map(({ name }) => name);
  const asked = request.backend ?? "auto";
  if (asked !== "auto") return known.includes(asked) ? bytes(asked) : estimateServingMemory(manifest, false);
  // The number decides who is chosen: where it would be one that then needs more than it has, it is its number that
  // counts, and another is chosen.
  const least = estimateServingMemory(manifest, true);
  const selector = selectorOf({ kind: "evaluation", request: {}, backend: null, needsBytes: least });
  const chosen = backends && backendFor(selector, backends);
  if (!chosen || chosen.memoryBytes === null) return least;
  const needed = bytes(chosen.name);
  return needed <= chosen.memoryBytes ? least : needed;
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
