/**
 * The rotary part of a Llama's config.json. transformers 4 spells it `rope_theta` beside `rope_scaling`;
 * transformers 5 puts both into `rope_parameters`. Both are read, either is written back. Scalings other than
 * `linear` and `llama3` are refused: computing them as if absent would be wrong without a sign of it.
 * Source: transformers 4.57 and 5.18, modeling_rope_utils.py and configuration_llama.py (read, not copied).
 */
import type { JsonObject } from "../manifest.ts";
import { asObject, corrupt, field, integerField, numberField, unsupported, type UnreadJson } from "./configFields.ts";
import type { RopeScaling } from "./llamaConfig.ts";

export interface RopeConfig {
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling | null;
}

const defaultTheta = 10000;
const thetaRange = { min: 1, max: 1e12 };
const factorRange = { min: 1, max: 1e6 };
const frequencyFactorRange = { min: 1e-3, max: 1e6 };
const positionsRange = { min: 1, max: 2 ** 27 };

/** @throws checkpoint_corrupt, checkpoint_unsupported */
export function parseRope(json: UnreadJson): RopeConfig {
  const given = ["rope_parameters", "rope_scaling"].filter((name) => field(json, name) !== undefined);
  const scalings = given.map((name) => parseSection(json, name));
  const [first, second] = scalings;
  if (first && second && JSON.stringify(first) !== JSON.stringify(second)) {
    throw corrupt("rope_scaling", field(json, "rope_scaling"), "what rope_parameters says, or nothing");
  }
  const nested = first?.theta ?? undefined;
  const outer = field(json, "rope_theta") === undefined ? undefined : numberField(json, "rope_theta", thetaRange);
  if (nested !== undefined && outer !== undefined && nested !== outer) {
    throw corrupt("rope_theta", outer, `${nested}, as in ${given[0]}`);
  }
  return { ropeTheta: nested ?? outer ?? defaultTheta, ropeScaling: first?.scaling ?? null };
}

function parseSection(json: UnreadJson, name: string): { theta: number | null; scaling: RopeScaling | null } {
  const section = asObject(field(json, name), `config ${name}`);
  const theta = field(section, "rope_theta") === undefined ? null : numberField(section, "rope_theta", thetaRange);
  const rotated = field(section, "partial_rotary_factor");
  if (rotated !== undefined && rotated !== 1) throw unsupported(`${name}.partial_rotary_factor`, rotated, "1");
  return { theta, scaling: parseScaling(section, name) };
}

function parseScaling(section: UnreadJson, name: string): RopeScaling | null {
  const type = field(section, "rope_type") ?? field(section, "type");
  if (type === undefined || type === "default") {
    // Without a type a factor would be dropped in silence.
    if (field(section, "factor") !== undefined && type === undefined) {
      throw corrupt(`${name}.rope_type`, undefined, "a type for the factor beside it");
    }
    return null;
  }
  if (type === "linear") return { type, factor: numberField(section, "factor", factorRange) };
  if (type !== "llama3") throw unsupported(`${name}.rope_type`, type, "default, linear, llama3");
  const scaling = {
    type,
    factor: numberField(section, "factor", factorRange),
    lowFreqFactor: numberField(section, "low_freq_factor", frequencyFactorRange),
    highFreqFactor: numberField(section, "high_freq_factor", frequencyFactorRange),
    originalMaxPositionEmbeddings: integerField(section, "original_max_position_embeddings", positionsRange),
  } as const;
  if (scaling.lowFreqFactor >= scaling.highFreqFactor) {
    const wanted = `more than low_freq_factor ${scaling.lowFreqFactor}`;
    throw corrupt(`${name}.high_freq_factor`, scaling.highFreqFactor, wanted);
  }
  return scaling;
}

/** @returns the fields in the spelling of transformers 4 or 5. */
export function formatRope(rope: RopeConfig, spelling: 4 | 5): JsonObject {
  const scaling = rope.ropeScaling === null ? null : formatScaling(rope.ropeScaling);
  if (spelling === 4) return { rope_theta: rope.ropeTheta, rope_scaling: scaling };
  return { rope_parameters: { ...(scaling ?? { rope_type: "default" }), rope_theta: rope.ropeTheta } };
}

function formatScaling(scaling: RopeScaling): JsonObject {
  if (scaling.type === "linear") return { rope_type: "linear", factor: scaling.factor };
  return {
    rope_type: "llama3",
    factor: scaling.factor,
    low_freq_factor: scaling.lowFreqFactor,
    high_freq_factor: scaling.highFreqFactor,
    original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
  };
}
