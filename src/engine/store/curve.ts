/**
 * Points of a training curve and progress as event data. Events are stored as they go out, in snake_case, so
 * that a stream passes them on untouched; the curve is read back from them.
 */
import type { MetricPoint } from "../../ops/events.ts";
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import type { JobProgress } from "./types.ts";

/** Field of a point -> its name in JSON. */
const names: Readonly<Record<keyof MetricPoint, string>> = {
  step: "step",
  tokens: "tokens",
  flops: "flops",
  loss: "loss",
  validationLoss: "validation_loss",
  learningRate: "learning_rate",
  gradNorm: "grad_norm",
  tokensPerSecond: "tokens_per_second",
};
const fields = Object.keys(names) as (keyof MetricPoint)[];

export function pointToJson(point: MetricPoint): JsonObject {
  return Object.fromEntries(fields.map((field) => [names[field], finite(point[field])]));
}

export function pointFromJson(data: JsonValue): MetricPoint {
  const stored = data as JsonObject;
  const entries = fields.map((field) => [field, stored[names[field]] ?? null]);
  return Object.fromEntries(entries) as unknown as MetricPoint;
}

export function progressToJson(progress: JobProgress): JsonObject {
  const { fraction, steps, totalSteps, tokens, etaSeconds, message } = progress;
  const all = { fraction, steps, total_steps: totalSteps, tokens, eta_seconds: etaSeconds, message };
  return Object.fromEntries(
    Object.entries(all).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}

/** JSON knows no infinity. */
function finite(value: number | null): number | null {
  return value !== null && Number.isFinite(value) ? value : null;
}
