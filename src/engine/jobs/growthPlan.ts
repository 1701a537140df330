/**
 * From a growth plan to the manifest of the grown checkpoint. A copied tensor becomes a reference to the
 * source's bytes, so a growth that only copies writes nothing and takes no longer than its list of tensors.
 */
import { formatLlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { GrowthPlan } from "../../ops/growth/index.ts";
import { CodedError, invariant } from "../../ops/errors.ts";
import type { CheckpointManifest, JsonObject, OptimizerRef } from "../../ops/manifest.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import type { CompareResult } from "../backends/work.ts";
import type { GrowthRequest } from "./requests.ts";

/** @returns whether anything has to be written. */
export function buildsTensors(plan: GrowthPlan): boolean {
  return plan.tensors.some(({ recipe }) => recipe.type === "build" && recipe.sameAs === undefined);
}

/** @param built the tensors made by growTensors.ts */
export function grownManifest(
  source: CheckpointManifest,
  plan: GrowthPlan,
  built: readonly TensorRef[],
  optimizerState: "drop" | "grow",
): CheckpointManifest {
  return {
    architecture: source.architecture,
    config: plan.targetConfig,
    configJson: formatLlamaConfig(plan.targetConfig, source.configJson),
    tensors: targetTensors(plan, source.tensors, built),
    files: source.files,
    original: null,
    optimizer: optimizerState === "grow" ? grownOptimizer(source.optimizer, plan) : null,
    ...(source.tokenizer === undefined ? {} : { tokenizer: source.tokenizer }),
  };
}

function targetTensors(plan: GrowthPlan, source: readonly TensorRef[], built: readonly TensorRef[]): TensorRef[] {
  const sources = new Map(source.map((tensor) => [tensor.name, tensor]));
  const targets = new Map(built.map((tensor) => [tensor.name, tensor]));
  for (const { info, recipe } of plan.tensors) {
    if (recipe.type === "build" && recipe.sameAs === undefined) continue;
    const origin = recipe.type === "copy" ? sources.get(recipe.source) : targets.get(recipe.sameAs ?? "");
    invariant(origin, `the plan's ${info.name} has an origin`);
    targets.set(info.name, { ...origin, name: info.name });
  }
  return plan.tensors.map(({ info }) => {
    const tensor = targets.get(info.name);
    invariant(tensor, `the plan's ${info.name} was made`);
    return tensor;
  });
}

/** A copied weight brings its moments along; checks.ts has refused plans that build weights. */
function grownOptimizer(source: OptimizerRef | null, plan: GrowthPlan): OptimizerRef | null {
  if (source === null) return null;
  const grow = (moments: readonly TensorRef[]): TensorRef[] => targetTensors(plan, moments, []);
  return { ...source, firstMoments: grow(source.firstMoments), secondMoments: grow(source.secondMoments) };
}

/** What was measured, or why nothing was. */
export type Verification = { readonly measured: CompareResult } | { readonly skipped: string };

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
