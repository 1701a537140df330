/** Growth operators, plans (computed here and now from the configuration alone) and growth jobs. */
import { expectedTensors } from "../../ops/architectures/llama.ts";
import { formatLlamaConfig, parseLlamaConfig, type LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import { elementCount } from "../../ops/dtype.ts";
import { CodedError, invariant } from "../../ops/errors.ts";
import { listOperators, planGrowth } from "../../ops/growth/index.ts";
import type { GrowthOperator, GrowthPlan, GrowthSource } from "../../ops/growth/index.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import { trainingFlops } from "../../ops/planner/flops.ts";
import { findPreset, presets } from "../../ops/planner/presets.ts";
import type { CheckpointStore } from "../../engine/store/types.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import type { JobAnswers } from "../jobAnswers.ts";
import { presentAll, presentMask } from "../present.ts";

export function createGrowthHandlers(
  deps: RouteDeps,
  answers: JobAnswers,
): HandlersOf<"listOperators" | "createGrowthPlan" | "createGrowth"> {
  return {
    listOperators() {
      return { status: 200, body: presentAll(listOperators().map(presentOperator)) };
    },
    async createGrowthPlan({ body }) {
      const { source, configJson } = await findSource(deps.store.checkpoints, body);
      return { status: 200, body: presentPlan(planGrowth(source, body), configJson) };
    },
    createGrowth: (call) => answers.submit("growth", call.body, call),
  };
}

/** What is to be grown, and the `config.json` whose unknown fields the target keeps. */
async function findSource(
  checkpoints: CheckpointStore,
  body: Schemas["GrowthPlanRequest"],
): Promise<{ source: GrowthSource; configJson: JsonObject }> {
  if (body.checkpoint !== undefined) {
    const { manifest } = await checkpoints.get(body.checkpoint);
    return { source: manifest, configJson: manifest.configJson };
  }
  if (body.config !== undefined) {
    const config = readConfig(body.config);
    return { source: { config, tensors: expectedTensors(config) }, configJson: body.config };
  }
  invariant(body.preset !== undefined, "the contract asks for one of checkpoint, config and preset");
  const config = findPreset(body.preset);
  if (config) return { source: { config, tensors: expectedTensors(config) }, configJson: {} };
  const detail = `got ${JSON.stringify(body.preset)}, want one of ${Object.keys(presets).join(", ")}`;
  throw new CodedError("invalid_request", `/preset: ${detail}`, { fields: [{ pointer: "/preset", detail }] });
}

/** @throws checkpoint_unsupported, checkpoint_corrupt; with the pointer of the field */
function readConfig(json: JsonObject): LlamaConfig {
  try {
    return parseLlamaConfig(json);
  } catch (error) {
    if (!(error instanceof CodedError)) throw error;
    const field = error.details["field"];
    const pointer = typeof field === "string" ? `/config/${field}` : "/config";
    const fields = [{ pointer, detail: error.message }];
    throw new CodedError(error.code, error.message, { fields, details: error.details, cause: error });
  }
}

function presentOperator(operator: GrowthOperator): Schemas["Operator"] {
  return {
    name: operator.name,
    description: operator.summary,
    axes: [...operator.axes],
    params: { ...operator.paramsSchema } as Record<string, JsonObject>,
    preserves_function: { ...operator.preservesFunction },
    reference: { ...operator.reference },
  };
}

/** Why moments cannot be grown along, or null. */
function momentsProblem(plan: GrowthPlan): string | null {
  const refused = plan.tensors.find(({ moments }) => typeof moments === "string");
  return refused === undefined ? null : `${refused.info.name}: ${String(refused.moments)}`;
}

/** What learning the expansion costs; null where nothing is learned. */
function presentFit({ fit, targetConfig }: GrowthPlan): Schemas["GrowthPlan"]["fit"] {
  if (fit === undefined) return null;
  const { steps, batchTokens, sequenceLength, dataset } = fit.settings;
  const counts = fit.expansion.parameters.map(({ shape }) => elementCount(shape));
  return {
    ...{ steps, tokens: steps * batchTokens, flops: trainingFlops(targetConfig, steps * batchTokens) },
    ...{ batch_tokens: batchTokens, sequence_length: sequenceLength, dataset },
    num_learned_parameters: counts.reduce((sum, count) => sum + count, 0),
  };
}

function presentPlan(plan: GrowthPlan, configJson: JsonObject): Schemas["GrowthPlan"] {
  return {
    operator: plan.operator,
    axis: plan.axis,
    source_config: formatLlamaConfig(plan.sourceConfig, configJson),
    target_config: formatLlamaConfig(plan.targetConfig, configJson),
    num_parameters: plan.numParameters,
    num_parameters_non_embedding: plan.numParametersNonEmbedding,
    num_new_parameters: plan.numNewParameters,
    growth_factor: plan.growthFactor,
    new_bytes: plan.newBytes,
    shared_bytes: plan.sharedBytes,
    peak_memory_bytes: plan.peakMemoryBytes,
    flops_per_token: trainingFlops(plan.targetConfig, 1),
    layer_map: [...plan.layerMap],
    new_layers: [...plan.newLayers],
    connection_rate: plan.connectionRate,
    preserves_function: plan.preservesFunction.value,
    preserves_function_reason: plan.preservesFunction.reason,
    optimizer_state_problem: momentsProblem(plan),
    growth_mask: presentMask(plan.growthMask ?? null),
    fit: presentFit(plan),
    warnings: [...plan.warnings],
  };
}
