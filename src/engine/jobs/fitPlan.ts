/**
 * What a learned growth needs beside its plan: data that fits the model. The growth's own numbers are checked by its
 * operator; here is what depends on the dataset, and the work that follows.
 */
import { CodedError, invariant } from "../../ops/errors.ts";
import type { GrowthPlan } from "../../ops/growth/index.ts";
import type { JsonObject, ResolvedCheckpoint, ResolvedDataset } from "../../ops/manifest.ts";
import type { FitWork } from "../backends/work.ts";
import type { Settings } from "../settings.ts";
import type { CheckpointRow, DatasetRow, JobRow } from "../store/types.ts";
import { growthFields } from "./growthPlan.ts";
import type { GrowthRequest } from "./requests.ts";
import { estimateTrainingMemory } from "../train/memory.ts";

function refuse(pointer: string, detail: string): CodedError {
  return new CodedError("unprocessable", `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

/** @returns the dataset that the growth names, or null where nothing is learned. @throws unprocessable for none */
export function fitDataset(plan: GrowthPlan): string | null {
  if (plan.fit === undefined) return null;
  const { dataset } = plan.fit.settings;
  if (dataset !== null) return dataset;
  throw refuse("/params/dataset", "is missing; the expansion is learned on a dataset, unless fit_steps is 0");
}

/** @throws unprocessable, with a pointer, when the expansion cannot be fitted on this data */
export function checkFit(plan: GrowthPlan, { manifest }: DatasetRow): void {
  const { fit, targetConfig } = plan;
  invariant(fit, "only a fit is checked");
  const { sequenceLength } = fit.settings;
  if (manifest.vocabSize > targetConfig.vocabSize) {
    const detail = `has token ids below ${manifest.vocabSize}; the model's vocabulary has ${targetConfig.vocabSize}`;
    throw refuse("/params/dataset", detail);
  }
  if (manifest.numTokens < sequenceLength + 1) {
    const detail = `has ${manifest.numTokens} training tokens, fewer than one sequence of ${sequenceLength} needs`;
    throw refuse("/params/dataset", detail);
  }
}

/** @returns bytes that the fit takes at least, about: those of training the grown model, a sequence at a time. */
export function fitBytes({ fit, targetConfig }: GrowthPlan): number {
  invariant(fit, "only a fit has a size");
  return estimateTrainingMemory(targetConfig, 1, fit.settings.sequenceLength);
}

/** What a fit cost and reached. */
export interface FitOutcome {
  readonly dataset: string;
  readonly backend: string;
  readonly steps: number;
  readonly tokens: number;
  readonly flops: number;
  /** Tokens of the dataset's stream consumed, skipped ones included. */
  readonly position: number;
  readonly trainLoss: number | null;
  readonly validationLoss: number | null;
}

/** @returns the fit's part of the receipt. */
export function fitReceipt({ dataset, backend, steps, tokens, flops, ...losses }: FitOutcome): JsonObject {
  const { trainLoss, validationLoss } = losses;
  return { dataset, backend, steps, tokens, flops, train_loss: trainLoss, validation_loss: validationLoss };
}

export interface FitInputs {
  readonly request: GrowthRequest;
  readonly plan: GrowthPlan;
  readonly base: CheckpointRow;
  readonly source: ResolvedCheckpoint;
  readonly dataset: ResolvedDataset;
  readonly job: JobRow;
  readonly settings: Settings;
}

/** @returns the fit as a backend does it; it goes on where the source's training on this data ended. */
export function planFit({ request, plan, base, source, dataset, job, settings }: FitInputs): FitWork {
  invariant(plan.fit, "only a growth that learns is fitted");
  return {
    ...{ source, dataset, resume: job.resume, blobDir: settings.blobDir, saveEveryMs: settings.saveEveryMs },
    request: growthFields(request),
    skipTokens: plan.fit.settings.skipTokens ?? base.dataSeen[dataset.id] ?? 0,
    memoryBytes: settings.computeMemoryBytes,
  };
}
