/**
 * A Llama in plain loops and double precision: what function preservation is measured with. Slow, small, and written
 * from the equations of method section 0, apart from the engine's model. Checked against transformers' logits in
 * referenceForward.test.ts.
 */
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";

export type Weights = ReadonlyMap<string, Float32Array | Float64Array>;
type Rows = Float64Array[];

/** What a masked model does differently: outputs are multiplied, and norms count fewer dimensions. */
export interface Fading {
  /** Factor of output `index` of a linear, by its name and layer; of hidden dimension `index` for "embedding". */
  readonly factor: (name: string, layer: number, index: number) => number;
  /** Dimensions over which a norm's mean is taken; the hidden size for a plain model. */
  readonly liveDimensions: number;
}

/** @returns logits at every position. */
export function referenceForward(config: LlamaConfig, weights: Weights, ids: readonly number[], fading?: Fading): Rows {
  const faded = (rows: Rows, name: string, layer: number): Rows =>
    fading ? rows.map((row) => row.map((value, i) => value * fading.factor(name, layer, i))) : rows;
  const live = fading?.liveDimensions ?? config.hiddenSize;
  const get = (name: string): Float32Array | Float64Array => {
    const values = weights.get(name);
    if (!values) throw new Error(`no tensor ${name}`);
    return values;
  };
  const d = config.hiddenSize;
  const embedding = get("model.embed_tokens.weight");
  let x: Rows = faded(
    ids.map((id) => Float64Array.from(embedding.subarray(id * d, (id + 1) * d))),
    "embedding",
    0,
  );
  for (let layer = 0; layer < config.numHiddenLayers; layer += 1) {
    const prefix = `model.layers.${layer}.`;
    const linear = (rows: Rows, name: string): Rows =>
      faded(matmul(rows, get(`${prefix}${name}.weight`), weights.get(`${prefix}${name}.bias`)), name, layer);
    const normed = rmsNorm(x, get(`${prefix}input_layernorm.weight`), config.rmsNormEps, live);
    const q = rope(config, linear(normed, "self_attn.q_proj"));
    const k = rope(config, linear(normed, "self_attn.k_proj"));
    const v = linear(normed, "self_attn.v_proj");
    x = add(x, linear(attention(config, q, k, v), "self_attn.o_proj"));
    const inner = rmsNorm(x, get(`${prefix}post_attention_layernorm.weight`), config.rmsNormEps, live);
    const gate = linear(inner, "mlp.gate_proj");
    const up = linear(inner, "mlp.up_proj");
    const mixed = gate.map((row, t) => row.map((g, i) => (g / (1 + Math.exp(-g))) * up[t]![i]!));
    x = add(x, linear(mixed, "mlp.down_proj"));
  }
  const head = config.tieWordEmbeddings ? embedding : get("lm_head.weight");
  const last = rmsNorm(x, get("model.norm.weight"), config.rmsNormEps, live);
  return matmul(config.tieWordEmbeddings ? faded(last, "embedding", 0) : last, head);
}

function matmul(rows: Rows, weight: Float32Array | Float64Array, bias?: Float32Array | Float64Array): Rows {
  return rows.map((row) => {
    const outputs = weight.length / row.length;
    const result = new Float64Array(outputs);
    for (let o = 0; o < outputs; o += 1) {
      let total = bias ? bias[o]! : 0;
      for (let i = 0; i < row.length; i += 1) total += row[i]! * weight[o * row.length + i]!;
      result[o] = total;
    }
    return result;
  });
}

function add(left: Rows, right: Rows): Rows {
  return left.map((row, t) => row.map((value, i) => value + right[t]![i]!));
}

function rmsNorm(rows: Rows, gain: Float32Array | Float64Array, eps: number, live: number): Rows {
  return rows.map((row) => {
    const scale = 1 / Math.sqrt(row.reduce((total, value) => total + value * value, 0) / live + eps);
    return row.map((value, i) => value * scale * gain[i]!);
  });
}

function rope(config: LlamaConfig, rows: Rows): Rows {
  const h = config.headDim;
  const frequencies = Array.from({ length: h / 2 }, (_, i) => scaled(config, config.ropeTheta ** ((-2 * i) / h)));
  return rows.map((row, t) => {
    const turned = new Float64Array(row.length);
    for (let start = 0; start < row.length; start += h) {
      frequencies.forEach((frequency, i) => {
        const cos = Math.cos(t * frequency);
        const sin = Math.sin(t * frequency);
        const a = row[start + i]!;
        const b = row[start + h / 2 + i]!;
        turned[start + i] = a * cos - b * sin;
        turned[start + h / 2 + i] = b * cos + a * sin;
      });
    }
    return turned;
  });
}

function scaled(config: LlamaConfig, frequency: number): number {
  const scaling = config.ropeScaling;
  if (scaling === null) return frequency;
  if (scaling.type === "linear") return frequency / scaling.factor;
  const turns = (scaling.originalMaxPositionEmbeddings * frequency) / (2 * Math.PI);
  if (turns > scaling.highFreqFactor) return frequency;
  if (turns < scaling.lowFreqFactor) return frequency / scaling.factor;
  const smooth = (turns - scaling.lowFreqFactor) / (scaling.highFreqFactor - scaling.lowFreqFactor);
  return (1 - smooth) * (frequency / scaling.factor) + smooth * frequency;
}

function attention(config: LlamaConfig, q: Rows, k: Rows, v: Rows): Rows {
  const h = config.headDim;
  const group = config.numAttentionHeads / config.numKeyValueHeads;
  return q.map((query, t) => {
    const out = new Float64Array(query.length);
    for (let head = 0; head < config.numAttentionHeads; head += 1) {
      const kv = Math.floor(head / group) * h;
      const scores = k.slice(0, t + 1).map((key) => {
        let total = 0;
        for (let i = 0; i < h; i += 1) total += query[head * h + i]! * key[kv + i]!;
        return total / Math.sqrt(h);
      });
      const top = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - top));
      const mass = weights.reduce((total, weight) => total + weight, 0);
      weights.forEach((weight, s) => {
        for (let i = 0; i < h; i += 1) out[head * h + i]! += (weight / mass) * v[s]![kv + i]!;
      });
    }
    return out;
  });
}

/** @returns the largest absolute difference. */
export function maxDifference(left: Rows, right: Rows): number {
  let most = 0;
  left.forEach((row, t) => {
    row.forEach((value, i) => {
      most = Math.max(most, Math.abs(value - right[t]![i]!));
    });
  });
  return most;
}
