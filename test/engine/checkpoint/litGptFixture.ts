/** Checkpoints in lit-gpt's layout, fused here row by row, apart from the code that takes them apart. */
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { tinyConfig, type TinyTensor } from "./fixtures.ts";

export interface Heads {
  readonly queries: number;
  readonly groups: number;
  readonly headDim: number;
}

const whole: Record<string, string> = {
  "model.embed_tokens.weight": "transformer.wte.weight",
  "model.norm.weight": "transformer.ln_f.weight",
  "lm_head.weight": "lm_head.weight",
};
const perLayer = (mlp: readonly [string, string, string]): Record<string, string> => ({
  input_layernorm: "norm_1",
  post_attention_layernorm: "norm_2",
  "self_attn.o_proj": "attn.proj",
  "mlp.gate_proj": `mlp.${mlp[0]}`,
  "mlp.up_proj": `mlp.${mlp[1]}`,
  "mlp.down_proj": `mlp.${mlp[2]}`,
});
export const litGptMlp = ["fc_1", "fc_2", "proj"] as const;
export const tinyLlamaMlp = ["swiglu.w1", "swiglu.w2", "swiglu.w3"] as const;

/** The fused matrix's rows, one after the other: for each group its query heads, its key head, its value head. */
function fuse([query, key, value]: readonly TinyTensor[], heads: Heads, name: string): TinyTensor {
  const rowBytes = query!.bytes.length / query!.shape[0]!;
  const row = (tensor: TinyTensor, head: number, at: number): Uint8Array => {
    const first = (head * heads.headDim + at) * rowBytes;
    return tensor.bytes.subarray(first, first + rowBytes);
  };
  const rows: Uint8Array[] = [];
  const addHead = (tensor: TinyTensor, head: number): void => {
    for (let at = 0; at < heads.headDim; at += 1) rows.push(row(tensor, head, at));
  };
  const perGroup = heads.queries / heads.groups;
  for (let group = 0; group < heads.groups; group += 1) {
    for (let head = group * perGroup; head < (group + 1) * perGroup; head += 1) addHead(query!, head);
    addHead(key!, group);
    addHead(value!, group);
  }
  return { ...query!, name, shape: [rows.length, ...query!.shape.slice(1)], bytes: Buffer.concat(rows) };
}

/** @returns the tensors of a Hugging Face checkpoint as lit-gpt has them. */
export function litGptTensors(tensors: readonly TinyTensor[], heads: Heads, mlp: readonly [string, string, string]) {
  const out: TinyTensor[] = [];
  const names = perLayer(mlp);
  const find = (name: string): TinyTensor | undefined => tensors.find((tensor) => tensor.name === name);
  for (const tensor of tensors) {
    const [, layer, module, kind] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(tensor.name) ?? [];
    if (layer === undefined) out.push({ ...tensor, name: whole[tensor.name]! });
    else if (names[module!] !== undefined)
      out.push({ ...tensor, name: `transformer.h.${layer}.${names[module!]}.${kind}` });
    else if (module === "self_attn.q_proj") {
      const parts = ["q_proj", "k_proj", "v_proj"].map((part) =>
        find(`model.layers.${layer}.self_attn.${part}.${kind}`)!,
      );
      out.push(fuse(parts, heads, `transformer.h.${layer}.attn.attn.${kind}`));
    }
  }
  return out;
}

/** @returns a tiny configuration of two layers with those heads. */
export function configOf({ queries, groups, headDim }: Heads, more: JsonObject = {}): JsonObject {
  return {
    ...tinyConfig,
    ...{ hidden_size: queries * headDim, num_attention_heads: queries, num_key_value_heads: groups, head_dim: headDim },
    num_hidden_layers: 2,
    ...more,
  };
}
