/**
 * The mean loss over held-out windows: the same ones, in the same order and cut the same way, each time, so
 * that values of one dataset can be compared across models and steps.
 */
import { setImmediate } from "node:timers/promises";
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedDataset } from "../../ops/manifest.ts";
import { validationBatches } from "../data/loader.ts";
import type { Model } from "./loss.ts";
import { batchLoss, countTargets, toMicroBatch } from "./loss.ts";

export interface ValidationSettings {
  readonly sequenceLength: number;
  /** Sequences computed at once. */
  readonly sequences: number;
  /** Tokens scored, at most. */
  readonly maxTokens: number;
}

/**
 * @returns the mean next-token loss, or null when `signal` was aborted
 * @throws dataset_invalid when nothing is held out; unprocessable
 */
export async function validationLoss(
  model: Model,
  dataset: ResolvedDataset,
  settings: ValidationSettings,
  signal: AbortSignal,
): Promise<number | null> {
  let total = 0;
  let tokens = 0;
  for (const batch of validationBatches(dataset, settings)) {
    await setImmediate();
    if (signal.aborted) return null;
    total += await batchLoss(model, toMicroBatch(batch, model.config));
    tokens += countTargets(batch.targets);
  }
  if (tokens === 0) throw new CodedError("dataset_invalid", `dataset ${dataset.id} has no held-out tokens`);
  return total / tokens;
}
