/**
 * From a growth plan to the manifest of the grown checkpoint. A copied tensor becomes a reference to the
 * source's bytes, so a growth that only copies writes nothing and takes no longer than its list of tensors.
 */
import { formatLlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { GrowthPlan, GrowthPlanRequest, PlannedTensor } from "../../ops/growth/index.ts";
import { CodedError } from "../../ops/errors.ts";
import type { CheckpointManifest, GrownParts, GrowthMask, JsonObject, OptimizerRef } from "../../ops/manifest.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import type { CompareResult } from "../backends/work.ts";
import { isBuilt, targetTensors } from "../growth/targetTensors.ts";
import type { GrowthRequest } from "./requests.ts";

/** @returns what a plan is made from; the rest of the request is about the job. */
export function growthFields({ operator, axis, factor, params, seed }: GrowthRequest): GrowthPlanRequest {
  return {
    ...(operator === undefined ? {} : { operator }),
    ...(axis === undefined ? {} : { axis }),
    ...(factor === undefined ? {} : { factor }),
    ...(params === undefined ? {} : { params }),
    seed: seed ?? 0,
  };
}

/** @returns whether anything has to be written. */
export function buildsTensors(plan: GrowthPlan): boolean {
  return plan.tensors.some(({ recipe }) => isBuilt(recipe));
}

/**
 * @param built the tensors made by growTensors.ts
 * @param optimizer the grown moments, or null where they are dropped
 */
export function grownManifest(
  source: CheckpointManifest,
  plan: GrowthPlan,
  built: readonly TensorRef[],
  optimizer: OptimizerRef | null,
): CheckpointManifest {
  return {
    architecture: source.architecture,
    config: plan.targetConfig,
    configJson: formatLlamaConfig(plan.targetConfig, source.configJson),
    tensors: targetTensors(plan.tensors, source.tensors, built),
    files: source.files,
    original: null,
    optimizer,
    ...(source.tokenizer === undefined ? {} : { tokenizer: source.tokenizer }),
    ...(plan.growthMask ? { growthMask: plan.growthMask } : {}),
    grown: grownParts(plan),
  };
}

/** What the growth added, for trainings of just that. */
function grownParts(plan: GrowthPlan): GrownParts {
  const added = new Set(plan.newLayers);
  const isNew = ({ info, recipe }: PlannedTensor): boolean => {
    const layer = /^model\.layers\.([0-9]+)\./.exec(info.name)?.[1];
    return recipe.type === "build" || (layer !== undefined && added.has(Number(layer)));
  };
  return { layers: [...plan.newLayers], tensors: plan.tensors.filter(isNew).map(({ info }) => info.name) };
}

/** What was measured, or why nothing was. */
export type Verification = { readonly measured: CompareResult } | { readonly skipped: string };

/** The mask as it stands in receipts. */
function presentMask(mask: GrowthMask | null): JsonObject | null {
  return mask && { step: mask.step, ramp_steps: mask.rampSteps, stages: mask.stages };
}

/** @returns what the growth did, for the checkpoint and the job's result. */
export function growthReceipt(
  request: GrowthRequest,
  plan: GrowthPlan,
  digest: string,
  verification: Verification,
): JsonObject {
  const measured = "measured" in verification ? verification.measured : null;
  return {
    operator: plan.operator,
    axis: plan.axis,
    ...(request.factor === undefined ? {} : { factor: request.factor }),
    ...(request.params === undefined ? {} : { params: request.params }),
    seed: request.seed ?? 0,
    optimizer_state: request.optimizer_state ?? "drop",
    preserves_function: plan.preservesFunction.value,
    preserves_function_reason: plan.preservesFunction.reason,
    tolerance: plan.preservesFunction.tolerance,
    verified: measured !== null,
    verification_skipped: "skipped" in verification ? verification.skipped : null,
    max_abs_logit_change: measured?.maxAbsLogitChange ?? null,
    rms_logit_change: measured?.rmsLogitChange ?? null,
    probe_tokens: measured?.probeTokens ?? null,
    layer_map: [...plan.layerMap],
    new_layers: [...plan.newLayers],
    copied_layers: plan.layerMap.flatMap((origin, layer) => (origin === null ? [] : [layer])),
    growth_mask: presentMask(plan.growthMask ?? null),
    connection_rate: plan.connectionRate,
    growth_factor: plan.growthFactor,
    num_parameters: plan.numParameters,
    num_new_parameters: plan.numNewParameters,
    new_bytes: plan.newBytes,
    shared_bytes: plan.sharedBytes,
    warnings: [...plan.warnings],
    digest,
  };
}

/** @throws verification_failed; the blob that was built is then referred to by nobody, and swept */
export function assertPreserved(plan: GrowthPlan, verification: Verification): void {
  const { value, tolerance } = plan.preservesFunction;
  if (!value || tolerance === null || !("measured" in verification)) return;
  const change = verification.measured.maxAbsLogitChange;
  if (change <= tolerance) return;
  const message = `the growth should keep the function, yet a logit changed by ${change}; allowed is ${tolerance}`;
  throw new CodedError("verification_failed", message, { details: { max_abs_logit_change: change, tolerance } });
}
