/**
 * The configuration of a Llama, as numbers that were checked. `parse` refuses what the service would
 * compute wrongly; `format` writes Hugging Face's spelling back, keeping fields it does not know. Both spellings
 * are read: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and 5 (`rope_parameters`, `dtype`).
 * Sizes have no default: a file that leaves one out is refused rather than read as a 7B model.
 * Source of names and defaults: transformers 5.18, configuration_llama.py.
 */
import { CodedError } from "../errors.ts";
import type { JsonObject } from "../manifest.ts";
import {
  asObject,
  booleanField,
  corrupt,
  field,
  integerField,
  numberField,
  unsupported,
  type UnreadJson,
} from "./configFields.ts";
import { formatRope, parseRope } from "./ropeConfig.ts";

/** Rotary scaling of Llama 3 (per-frequency, by wavelength) or the plain linear one. */
export type RopeScaling =
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  | { readonly type: "linear"; readonly factor: number };

export interface LlamaConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling | null;
  readonly tieWordEmbeddings: boolean;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly initializerRange: number;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
}

/** Largest and smallest sizes that are computed with; above the largest open Llamas by a factor of 4 or more. */
export const llamaLimits = {
  vocabSize: { min: 1, max: 2 ** 22 },
  hiddenSize: { min: 1, max: 2 ** 17 },
  intermediateSize: { min: 1, max: 2 ** 20 },
  numHiddenLayers: { min: 1, max: 1024 },
  numAttentionHeads: { min: 1, max: 4096 },
  headDim: { min: 2, max: 4096 },
  maxPositionEmbeddings: { min: 1, max: 2 ** 27 },
  rmsNormEps: { min: 1e-30, max: 0.1 },
  initializerRange: { min: 0, max: 10 },
} as const;

const maxEosTokens = 64;

/**
 * @param json config.json as JSON.parse gave it
 * @throws checkpoint_corrupt for a value that no honest file holds, checkpoint_unsupported for an honest model that
 *   is not computed here; `details.field` names the field
 */
export function parseLlamaConfig(json: unknown): LlamaConfig {
  const config = asObject(json, "config.json");
  refuseOtherModels(config);
  const vocabSize = integerField(config, "vocab_size", llamaLimits.vocabSize);
  const hiddenSize = integerField(config, "hidden_size", llamaLimits.hiddenSize);
  const numAttentionHeads = integerField(config, "num_attention_heads", llamaLimits.numAttentionHeads);
  if (hiddenSize % numAttentionHeads !== 0) {
    // Computable where head_dim is given, but transformers refuses to load it.
    throw corrupt("num_attention_heads", numAttentionHeads, `a divisor of hidden_size ${hiddenSize}`);
  }
  const kvRange = { min: 1, max: numAttentionHeads };
  const numKeyValueHeads = integerField(config, "num_key_value_heads", kvRange, numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw corrupt("num_key_value_heads", numKeyValueHeads, `a divisor of num_attention_heads ${numAttentionHeads}`);
  }
  const headDim = integerField(config, "head_dim", llamaLimits.headDim, hiddenSize / numAttentionHeads);
  if (headDim % 2 !== 0) throw corrupt("head_dim", headDim, "an even number: rotary embedding turns pairs");
  return {
    vocabSize,
    hiddenSize,
    intermediateSize: integerField(config, "intermediate_size", llamaLimits.intermediateSize),
    numHiddenLayers: integerField(config, "num_hidden_layers", llamaLimits.numHiddenLayers),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings: integerField(config, "max_position_embeddings", llamaLimits.maxPositionEmbeddings, 2048),
    rmsNormEps: numberField(config, "rms_norm_eps", llamaLimits.rmsNormEps, 1e-6),
    ...parseRope(config),
    tieWordEmbeddings: booleanField(config, "tie_word_embeddings", false),
    attentionBias: booleanField(config, "attention_bias", false),
    mlpBias: booleanField(config, "mlp_bias", false),
    initializerRange: numberField(config, "initializer_range", llamaLimits.initializerRange, 0.02),
    ...parseTokenIds(config, vocabSize),
  };
}

/** `pretraining_tp` above 1 is accepted: it only cuts the same matrix products into slices. */
function refuseOtherModels(config: UnreadJson): void {
  const type = field(config, "model_type");
  const classes = field(config, "architectures");
  if (classes !== undefined && !(Array.isArray(classes) && classes.includes("LlamaForCausalLM"))) {
    throw unsupported("architectures", Array.isArray(classes) ? classes[0] : classes, "LlamaForCausalLM");
  }
  if (type !== "llama" && !(type === undefined && classes !== undefined)) {
    throw unsupported("model_type", type, "llama");
  }
  const activation = field(config, "hidden_act") ?? "silu";
  if (activation !== "silu" && activation !== "swish") throw unsupported("hidden_act", activation, "silu");
  if (field(config, "quantization_config") !== undefined) {
    throw unsupported("quantization_config", field(config, "quantization_config"), "weights that are not quantized");
  }
  if (field(config, "sliding_window") !== undefined && field(config, "use_sliding_window") !== false) {
    throw unsupported("sliding_window", field(config, "sliding_window"), "full causal attention");
  }
  const rotated = field(config, "partial_rotary_factor");
  if (rotated !== undefined && rotated !== 1) throw unsupported("partial_rotary_factor", rotated, "1");
}

/**
 * Ids that the file does not give stay unknown: the library's defaults 1 and 2 belong to one tokenizer.
 */
function parseTokenIds(config: UnreadJson, vocabSize: number): Pick<LlamaConfig, "bosTokenId" | "eosTokenIds"> {
  const range = { min: 0, max: vocabSize - 1 };
  const bosTokenId = field(config, "bos_token_id") === undefined ? null : integerField(config, "bos_token_id", range);
  const eos = field(config, "eos_token_id");
  const ids: unknown[] = eos === undefined ? [] : Array.isArray(eos) ? eos : [eos];
  if (ids.length > maxEosTokens) throw corrupt("eos_token_id", eos, `at most ${maxEosTokens} ids`);
  const eosTokenIds = ids.map((id) => integerField({ eos_token_id: id }, "eos_token_id", range));
  return { bosTokenId, eosTokenIds };
}

/** Plain number and boolean fields, in Hugging Face's spelling. */
const plainFields = [
  ["vocab_size", "vocabSize"],
  ["hidden_size", "hiddenSize"],
  ["intermediate_size", "intermediateSize"],
  ["num_hidden_layers", "numHiddenLayers"],
  ["num_attention_heads", "numAttentionHeads"],
  ["num_key_value_heads", "numKeyValueHeads"],
  ["head_dim", "headDim"],
  ["max_position_embeddings", "maxPositionEmbeddings"],
  ["rms_norm_eps", "rmsNormEps"],
  ["tie_word_embeddings", "tieWordEmbeddings"],
  ["attention_bias", "attentionBias"],
  ["mlp_bias", "mlpBias"],
  ["initializer_range", "initializerRange"],
] as const;

/**
 * Writes `config` over `rawJson`: fields that already say the same stay as they are (absent ones too), others are
 * set in the file's own spelling, unknown ones survive. An empty `rawJson` gives a complete file in the spelling of
 * transformers 4, which version 5 reads as well. Guarantee: parse(format(config, raw)) equals config.
 *
 * @throws what `parseLlamaConfig` throws where `config` itself is not a legal one
 */
export function formatLlamaConfig(config: LlamaConfig, rawJson: JsonObject): JsonObject {
  const json: JsonObject = { ...rawJson };
  if (field(json, "model_type") === undefined && field(json, "architectures") === undefined) {
    Object.assign(json, { model_type: "llama", architectures: ["LlamaForCausalLM"] });
  }
  const complete = Object.keys(rawJson).length > 0;
  const implied = impliedFields(config);
  for (const [name, key] of plainFields) {
    const now = field(json, name) ?? (complete ? implied[name] : undefined);
    if (now !== config[key]) json[name] = config[key];
  }
  if (field(json, "hidden_act") === undefined && !complete) json["hidden_act"] = "silu";
  formatRopeInto(json, config, complete);
  const bos = field(json, "bos_token_id") ?? null;
  if (bos !== config.bosTokenId || !complete) json["bos_token_id"] = config.bosTokenId;
  const eos = field(json, "eos_token_id") ?? [];
  if (!sameJson(Array.isArray(eos) ? eos : [eos], config.eosTokenIds) || !complete) {
    json["eos_token_id"] = config.eosTokenIds.length <= 1 ? (config.eosTokenIds[0] ?? null) : [...config.eosTokenIds];
  }
  const reread = parseLlamaConfig(json);
  for (const key of Object.keys(reread) as (keyof LlamaConfig)[]) {
    if (!sameJson(reread[key], config[key])) {
      throw new CodedError("internal", `config ${key} did not survive writing`, { details: { field: key } });
    }
  }
  return json;
}

/** What a reader takes where the file is silent; sizes have no default. */
function impliedFields(config: LlamaConfig): Readonly<Record<string, number | boolean>> {
  return {
    num_key_value_heads: config.numAttentionHeads,
    head_dim: config.hiddenSize / config.numAttentionHeads,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
    attention_bias: false,
    mlp_bias: false,
    initializer_range: 0.02,
  };
}

function formatRopeInto(json: JsonObject, config: LlamaConfig, complete: boolean): void {
  const rope = { ropeTheta: config.ropeTheta, ropeScaling: config.ropeScaling };
  if (complete && sameJson(parseRope(json), rope)) return;
  const spelling = Object.hasOwn(json, "rope_parameters") || Object.hasOwn(json, "dtype") ? 5 : 4;
  for (const name of ["rope_parameters", "rope_theta", "rope_scaling"]) delete json[name];
  Object.assign(json, formatRope(rope, spelling));
}

function sameJson(left: unknown, right: unknown): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}
