/**
 * The table of the Llama architecture: every tensor once, under its Hugging Face name. Weights are stored
 * [outputs, inputs]; rotary embedding in the half-rotation layout, so no tensor needs conversion. The biases exist
 * where `attention_bias` or `mlp_bias` says so, the head where it is not tied to the embedding.
 * Source: transformers 5.18, modeling_llama.py (names); counts checked against the paper's (method section 3.2).
 */
import { elementCount } from "../dtype.ts";
import type { Dtype, TensorInfo } from "../tensor.ts";
import type {
  Architecture,
  Axis,
  ParameterCounts,
  TensorKind,
  TensorRole,
  TensorRow,
  TensorSpec,
} from "./architecture.ts";
import { formatLlamaConfig, parseLlamaConfig, type LlamaConfig } from "./llamaConfig.ts";

type When = TensorRow["when"];

const always: When = () => true;
const attentionBias: When = (config) => config.attentionBias;
const mlpBias: When = (config) => config.mlpBias;
const untied: When = (config) => !config.tieWordEmbeddings;

function model(name: string, kind: TensorKind, role: TensorRole, axes: readonly Axis[], when = always): TensorRow {
  return { pattern: name, kind, role, axes, perLayer: false, when };
}

function layer(name: string, kind: TensorKind, role: TensorRole, axes: readonly Axis[], when = always): TensorRow {
  return { pattern: `model.layers.{layer}.${name}`, kind, role, axes, perLayer: true, when };
}

const rows: readonly TensorRow[] = [
  model("model.embed_tokens.weight", "embedding", "embedding", ["vocab", "hidden"]),
  layer("input_layernorm.weight", "norm", "inputNorm", ["hidden"]),
  layer("self_attn.q_proj.weight", "linear", "query", ["query", "hidden"]),
  layer("self_attn.q_proj.bias", "bias", "query", ["query"], attentionBias),
  layer("self_attn.k_proj.weight", "linear", "key", ["keyValue", "hidden"]),
  layer("self_attn.k_proj.bias", "bias", "key", ["keyValue"], attentionBias),
  layer("self_attn.v_proj.weight", "linear", "value", ["keyValue", "hidden"]),
  layer("self_attn.v_proj.bias", "bias", "value", ["keyValue"], attentionBias),
  layer("self_attn.o_proj.weight", "linear", "output", ["hidden", "query"]),
  layer("self_attn.o_proj.bias", "bias", "output", ["hidden"], attentionBias),
  layer("post_attention_layernorm.weight", "norm", "postAttentionNorm", ["hidden"]),
  layer("mlp.gate_proj.weight", "linear", "gate", ["intermediate", "hidden"]),
  layer("mlp.gate_proj.bias", "bias", "gate", ["intermediate"], mlpBias),
  layer("mlp.up_proj.weight", "linear", "up", ["intermediate", "hidden"]),
  layer("mlp.up_proj.bias", "bias", "up", ["intermediate"], mlpBias),
  layer("mlp.down_proj.weight", "linear", "down", ["hidden", "intermediate"]),
  layer("mlp.down_proj.bias", "bias", "down", ["hidden"], mlpBias),
  model("model.norm.weight", "norm", "finalNorm", ["hidden"]),
  model("lm_head.weight", "head", "head", ["vocab", "hidden"], untied),
];

/** @returns the extent of a model axis. */
export function axisSize(config: LlamaConfig, axis: Axis): number {
  switch (axis) {
    case "vocab":
      return config.vocabSize;
    case "hidden":
      return config.hiddenSize;
    case "intermediate":
      return config.intermediateSize;
    case "query":
      return config.numAttentionHeads * config.headDim;
    case "keyValue":
      return config.numKeyValueHeads * config.headDim;
  }
}

/** @returns the name of a row's tensor; `index` is the layer, ignored for the model's own tensors. */
export function tensorName(row: TensorRow, index: number | null): string {
  return row.perLayer ? row.pattern.replace("{layer}", String(index)) : row.pattern;
}

/** @returns every tensor of the model: embedding, layers from 0, final norm, head. */
export function tensorSpecs(config: LlamaConfig): readonly TensorSpec[] {
  const specs: TensorSpec[] = [];
  const present = rows.filter((row) => row.when(config));
  const first = present.findIndex((row) => row.perLayer);
  const perLayer = present.filter((row) => row.perLayer);
  const add = (row: TensorRow, index: number | null): void => {
    const shape = row.axes.map((axis) => axisSize(config, axis));
    specs.push({ name: tensorName(row, index), row, layer: index, shape });
  };
  for (const row of present.slice(0, first)) add(row, null);
  for (let index = 0; index < config.numHiddenLayers; index += 1) {
    for (const row of perLayer) add(row, index);
  }
  for (const row of present.slice(first + perLayer.length)) add(row, null);
  return specs;
}

/** @returns the tensors that a checkpoint of that configuration holds, in one element type. */
export function expectedTensors(config: LlamaConfig, dtype: Dtype = "F32"): readonly TensorInfo[] {
  return tensorSpecs(config).map(({ name, shape }) => ({ name, dtype, shape }));
}

/** @returns exact parameter counts, from the table; the head counts only where it is a tensor of its own. */
export function countParameters(config: LlamaConfig): ParameterCounts {
  let total = 0;
  let nonEmbedding = 0;
  for (const row of rows) {
    if (!row.when(config)) continue;
    const elements = elementCount(row.axes.map((axis) => axisSize(config, axis)));
    const count = elements * (row.perLayer ? config.numHiddenLayers : 1);
    total += count;
    if (row.kind !== "embedding" && row.kind !== "head") nonEmbedding += count;
  }
  return { total, nonEmbedding };
}

/** @returns the spec of one tensor by its name, or null where the model has none of that name. */
export function findSpec(config: LlamaConfig, name: string): TensorSpec | null {
  const match = /^model\.layers\.(0|[1-9][0-9]{0,3})\.(.+)$/.exec(name);
  const index = match ? Number(match[1]) : null;
  if (index !== null && index >= config.numHiddenLayers) return null;
  const pattern = match ? `model.layers.{layer}.${match[2]}` : name;
  const row = rows.find((candidate) => candidate.pattern === pattern && candidate.when(config));
  // A name that spells out the pattern's own placeholder is nobody's.
  if (!row || row.perLayer !== (index !== null)) return null;
  return { name, row, layer: index, shape: row.axes.map((axis) => axisSize(config, axis)) };
}

/** The Llama architecture. */
export const llama: Architecture = {
  name: "llama",
  rows,
  parseConfig: parseLlamaConfig,
  formatConfig: formatLlamaConfig,
  axisSize,
  specs: tensorSpecs,
  expectedTensors,
  countParameters,
};
