/**
 * Llamas under the names of lit-gpt, in which the paper's own code and TinyLlama train. All tensors are the Hugging
 * Face ones under other names, but for one: query, key and value are fused into a single matrix, whose rows go group
 * by group: the query heads of a key-value group, its key head, its value head. Taking it apart moves whole rows and
 * changes none.
 * Source: method section 0 (layout of the fused matrix); names of lit-gpt (`fc_1`, `fc_2`, `proj`) and of TinyLlama
 * (`swiglu.w1` to `w3`). The later litgpt calls its fused matrix `attn.qkv`, orders its rows differently, and is not
 * meant here.
 */
import { CodedError } from "../errors.ts";
import type { LlamaConfig } from "./llamaConfig.ts";

/** `count` rows from row `first` on. */
export interface RowRun {
  readonly first: number;
  readonly count: number;
}

/** A tensor under its Hugging Face name, and the rows of a stored tensor that make it up, in order. */
export interface NamedRows<Tensor> {
  readonly name: string;
  readonly shape: readonly number[];
  readonly stored: Tensor;
  /** Null for all rows as they are. */
  readonly runs: readonly RowRun[] | null;
}

const wholeTensors: Readonly<Record<string, string>> = {
  "transformer.wte.weight": "model.embed_tokens.weight",
  "transformer.ln_f.weight": "model.norm.weight",
};

const layerTensors: Readonly<Record<string, string>> = {
  "norm_1.weight": "input_layernorm.weight",
  "norm_2.weight": "post_attention_layernorm.weight",
  "attn.proj.weight": "self_attn.o_proj.weight",
  "attn.proj.bias": "self_attn.o_proj.bias",
  "mlp.fc_1.weight": "mlp.gate_proj.weight",
  "mlp.fc_1.bias": "mlp.gate_proj.bias",
  "mlp.fc_2.weight": "mlp.up_proj.weight",
  "mlp.fc_2.bias": "mlp.up_proj.bias",
  "mlp.proj.weight": "mlp.down_proj.weight",
  "mlp.proj.bias": "mlp.down_proj.bias",
  "mlp.swiglu.w1.weight": "mlp.gate_proj.weight",
  "mlp.swiglu.w2.weight": "mlp.up_proj.weight",
  "mlp.swiglu.w3.weight": "mlp.down_proj.weight",
};

const layerName = /^transformer\.h\.(0|[1-9][0-9]{0,3})\.(.+)$/;
const fusedName = /^attn\.attn\.(weight|bias)$/;

/** @returns whether tensors of these names are a model in lit-gpt's layout. */
export function isLitGpt(names: ReadonlySet<string>): boolean {
  return names.has("transformer.wte.weight");
}

/**
 * @param stored the tensors as they are stored; names that lit-gpt does not know stay as they are
 * @throws checkpoint_corrupt for a fused tensor whose rows are not those of the config
 */
export function fromLitGpt<Tensor extends { readonly name: string; readonly shape: readonly number[] }>(
  config: LlamaConfig,
  stored: readonly Tensor[],
): readonly NamedRows<Tensor>[] {
  return stored.flatMap((tensor) => {
    const [, layer, rest = ""] = layerName.exec(tensor.name) ?? [];
    const fused = fusedName.exec(rest);
    if (layer !== undefined && fused !== null) return splitFused(config, tensor, layer, fused[1]!);
    const known = layer === undefined ? wholeTensors[tensor.name] : layerTensors[rest];
    const name = known === undefined ? tensor.name : layer === undefined ? known : `model.layers.${layer}.${known}`;
    return [{ name, shape: tensor.shape, stored: tensor, runs: null }];
  });
}

function splitFused<Tensor extends { readonly name: string; readonly shape: readonly number[] }>(
  config: LlamaConfig,
  stored: Tensor,
  layer: string,
  kind: string,
): NamedRows<Tensor>[] {
  const [rows, ...columns] = stored.shape;
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const wanted = (numAttentionHeads + 2 * numKeyValueHeads) * headDim;
  if (rows !== wanted) {
    const heads = `${numAttentionHeads} query and ${numKeyValueHeads} key-value heads of ${headDim}`;
    const problem = `tensor ${stored.name} has ${rows ?? "no"} rows; ${heads} want ${wanted}`;
    throw new CodedError("checkpoint_corrupt", problem, { details: { tensors: [stored.name] } });
  }
  const { query, key, value } = fusedRuns(config);
  const part = (name: string, runs: readonly RowRun[]): NamedRows<Tensor> => {
    const count = runs.reduce((sum, run) => sum + run.count, 0);
    return { name: `model.layers.${layer}.self_attn.${name}.${kind}`, shape: [count, ...columns], stored, runs };
  };
  return [part("q_proj", query), part("k_proj", key), part("v_proj", value)];
}

/** @returns the rows of the fused matrix that are queries, keys and values; neighbouring runs are one. */
function fusedRuns(config: LlamaConfig): Readonly<Record<"query" | "key" | "value", readonly RowRun[]>> {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const queryRows = (numAttentionHeads / numKeyValueHeads) * headDim;
  const groups = Array.from({ length: numKeyValueHeads }, (_unused, group) => group * (queryRows + 2 * headDim));
  return {
    query: groups.map((first) => ({ first, count: queryRows })),
    key: groups.map((first) => ({ first: first + queryRows, count: headDim })),
    value: groups.map((first) => ({ first: first + queryRows + headDim, count: headDim })),
  };
}
