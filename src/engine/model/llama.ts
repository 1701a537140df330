/**
 * The Llama, top to bottom (Touvron et al. 2023; Llama 3 differs in rope scaling and GQA only): embedding,
 * then for each layer attention and a gated MLP, each behind an RMSNorm and added to the stream, then a last
 * norm and the head. Written once, over the kernel seam, for training and for generation; it owns no weights
 * and keeps no state but what a KV cache is given.
 *
 * - head_dim is free: heads x head_dim need not be the hidden size.
 * - grouped-query attention: query head n reads key/value head floor(n / (N / K)).
 * - rotary embedding in the half-rotation layout of Hugging Face checkpoints, so weights are used as stored.
 * - biases on attention and MLP only where the configuration says so; the head tied to the embedding or not.
 *
 * Shapes: B batch, T new positions, R = B x T rows, D hidden, N query heads, K key/value heads, H head_dim,
 * V vocabulary. Rows are ordered batch first: row = b * T + t.
 */
import * as tf from "@tensorflow/tfjs";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { Kernels, RopeTables } from "../kernels/kernels.ts";
import { sequenceOf } from "./kvCache.ts";
import type { KvCache } from "./kvCache.ts";
import { ropeAngles } from "./ropeTables.ts";

/** Tensors by their Hugging Face name; float32, or variables while training. */
export type Weights = ReadonlyMap<string, tf.Tensor>;

/**
 * The stream after the last norm, one row for each position.
 *
 * @param ids token ids in [0, V), row-major [batch, length]
 * @param caches one for each sequence of the batch, which may hold different lengths: the new positions
 *   follow what each holds, and are added to it. None: positions 0 .. length - 1, differentiable.
 * @returns [B*T, D]; the caller disposes of it
 */
export function hiddenStates(
  kernels: Kernels,
  config: LlamaConfig,
  weights: Weights,
  ids: Int32Array,
  batch: number,
  length: number,
  caches?: readonly KvCache[],
): tf.Tensor2D {
  const run: Run = { kernels, config, weights, batch, length, caches: caches ?? null };
  if (ids.length !== batch * length) throw new Error(`invariant: ${ids.length} ids for ${batch} x ${length} positions`);
  if (caches && caches.length !== batch) throw new Error(`invariant: ${caches.length} caches for a batch of ${batch}`);
  const x_RD = tf.tidy(() => {
    const tables = ropeTables(run);
    let x = kernels.embedding(tf.tensor1d(ids, "int32"), matrix(weights, "model.embed_tokens.weight"));
    for (let layer = 0; layer < config.numHiddenLayers; layer++) x = block(run, layer, x, tables);
    return kernels.rmsNorm(x, vector(weights, "model.norm.weight"), config.rmsNormEps);
  });
  for (const cache of caches ?? []) cache.advance(length);
  return x_RD;
}

/** @returns logits [R, V] of rows of the stream (those of `hiddenStates`, or a choice of them). */
export function logits(kernels: Kernels, config: LlamaConfig, weights: Weights, x_RD: tf.Tensor2D): tf.Tensor2D {
  return kernels.linear(x_RD, headMatrix(config, weights));
}

/**
 * Sum over positions of -ln p(target), differentiable in every weight.
 * @param targets the id wanted at each position, or -1 for a position that does not count; [batch, length]
 */
export function lossSum(
  kernels: Kernels,
  config: LlamaConfig,
  weights: Weights,
  ids: Int32Array,
  targets: Int32Array,
  batch: number,
  length: number,
): tf.Scalar {
  return tf.tidy(() => {
    const x_RD = hiddenStates(kernels, config, weights, ids, batch, length);
    return kernels.crossEntropy(x_RD, headMatrix(config, weights), tf.tensor1d(targets, "int32"));
  });
}

/** What stays the same through one forward pass. */
interface Run {
  readonly kernels: Kernels;
  readonly config: LlamaConfig;
  readonly weights: Weights;
  readonly batch: number;
  readonly length: number;
  readonly caches: readonly KvCache[] | null;
}

/** x + attention(norm(x)), then that + mlp(norm(that)). */
function block(run: Run, layer: number, x_RD: tf.Tensor2D, tables: RopeTables): tf.Tensor2D {
  const { kernels, config, weights } = run;
  const prefix = `model.layers.${layer}.`;
  return tf.tidy(() => {
    const before = vector(weights, `${prefix}input_layernorm.weight`);
    const attended = attention(run, layer, kernels.rmsNorm(x_RD, before, config.rmsNormEps), tables);
    const middle_RD = tf.add<tf.Tensor2D>(x_RD, attended);
    const after = vector(weights, `${prefix}post_attention_layernorm.weight`);
    return tf.add<tf.Tensor2D>(middle_RD, mlp(run, layer, kernels.rmsNorm(middle_RD, after, config.rmsNormEps)));
  });
}

function attention(run: Run, layer: number, x_RD: tf.Tensor2D, tables: RopeTables): tf.Tensor2D {
  const { kernels, config, batch, length, caches } = run;
  const prefix = `model.layers.${layer}.self_attn.`;
  const heads = (name: string, count: number): tf.Tensor4D =>
    tf.reshape(project(run, prefix + name, x_RD, config.attentionBias), [batch, length, count, config.headDim]);
  const q_BTNH = heads("q_proj", config.numAttentionHeads);
  const k_BTKH = heads("k_proj", config.numKeyValueHeads);
  const v_BTKH = heads("v_proj", config.numKeyValueHeads);
  const [turnedQ_BTNH, turnedK_BTKH] = [turned(run, q_BTNH, tables), turned(run, k_BTKH, tables)];
  const mixed_BTNH = caches
    ? cachedAttention(run, caches, layer, { q_BTNH: turnedQ_BTNH, k_BTKH: turnedK_BTKH, v_BTKH })
    : kernels.causalAttention(turnedQ_BTNH, turnedK_BTKH, v_BTKH, 0);
  const width = config.numAttentionHeads * config.headDim;
  const mixed_RO = tf.reshape(mixed_BTNH, [batch * length, width]) as tf.Tensor2D;
  return project(run, `${prefix}o_proj`, mixed_RO, config.attentionBias);
}

/** With caches each row of the batch has a position of its own, so that all of them are turned as one sequence. */
function turned({ kernels, caches }: Run, x_BTNH: tf.Tensor4D, tables: RopeTables): tf.Tensor4D {
  const [b, t, n, h] = x_BTNH.shape;
  if (!caches || b === 1) return kernels.rope(x_BTNH, tables);
  return tf.reshape(kernels.rope(tf.reshape(x_BTNH, [1, b * t, n, h]), tables), [b, t, n, h]);
}

/** Attention of each sequence over its own past: sequences of a batch may have got to different positions. */
function cachedAttention(
  run: Run,
  caches: readonly KvCache[],
  layer: number,
  { q_BTNH, k_BTKH, v_BTKH }: { q_BTNH: tf.Tensor4D; k_BTKH: tf.Tensor4D; v_BTKH: tf.Tensor4D },
): tf.Tensor4D {
  const { kernels, batch } = run;
  const mixed = caches.map((cache, b) => {
    const { k_1SKH, v_1SKH } = cache.append(layer, k_BTKH, v_BTKH, b, kernels);
    return kernels.causalAttention(sequenceOf(q_BTNH, b), k_1SKH, v_1SKH, cache.length);
  });
  return batch === 1 ? (mixed[0] as tf.Tensor4D) : tf.concat(mixed, 0);
}

/** down(silu(gate(x)) * up(x)). */
function mlp(run: Run, layer: number, x_RD: tf.Tensor2D): tf.Tensor2D {
  const { kernels, config } = run;
  const prefix = `model.layers.${layer}.mlp.`;
  const gate_RF = project(run, `${prefix}gate_proj`, x_RD, config.mlpBias);
  const up_RF = project(run, `${prefix}up_proj`, x_RD, config.mlpBias);
  return project(run, `${prefix}down_proj`, kernels.swiglu(gate_RF, up_RF), config.mlpBias);
}

function project({ kernels, weights }: Run, name: string, x_RI: tf.Tensor2D, bias: boolean): tf.Tensor2D {
  const w_OI = matrix(weights, `${name}.weight`);
  return bias ? kernels.linear(x_RI, w_OI, vector(weights, `${name}.bias`)) : kernels.linear(x_RI, w_OI);
}

/** The angles of positions 0 .. length - 1, or, with caches, of all rows of the batch. */
function ropeTables({ config, length, caches }: Run): RopeTables {
  const offsets = caches ? caches.map((cache) => cache.length) : [0];
  const half = config.headDim / 2;
  const [cos, sin] = [
    new Float32Array(offsets.length * length * half),
    new Float32Array(offsets.length * length * half),
  ];
  for (const [i, offset] of offsets.entries()) {
    const angles = ropeAngles(config, offset, length);
    cos.set(angles.cos, i * length * half);
    sin.set(angles.sin, i * length * half);
  }
  const shape: [number, number] = [offsets.length * length, half];
  return { cos: tf.tensor2d(cos, shape), sin: tf.tensor2d(sin, shape) };
}

function headMatrix(config: LlamaConfig, weights: Weights): tf.Tensor2D {
  return matrix(weights, config.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight");
}

function matrix(weights: Weights, name: string): tf.Tensor2D {
  return weightNamed(weights, name) as tf.Tensor2D;
}

function vector(weights: Weights, name: string): tf.Tensor1D {
  return weightNamed(weights, name) as tf.Tensor1D;
}

function weightNamed(weights: Weights, name: string): tf.Tensor {
  const tensor = weights.get(name);
  if (!tensor) throw new Error(`invariant: the weights hold no ${name}; the manifest was not checked`);
  return tensor;
}
