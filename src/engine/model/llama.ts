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
import type { KvCache } from "./kvCache.ts";
import { ropeAngles } from "./ropeTables.ts";

/** Tensors by their Hugging Face name; float32, or variables while training. */
export type Weights = ReadonlyMap<string, tf.Tensor>;

/** New positions of one sequence, which follow what its cache holds. */
export interface SequenceRows {
  readonly cache: KvCache;
  /** How many, 1 or more. */
  readonly rows: number;
}

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
  if (ids.length !== batch * length) throw new Error(`invariant: ${ids.length} ids for ${batch} x ${length} positions`);
  if (!caches) return stream({ kernels, config, weights, batch, length, sequences: null }, ids);
  if (caches.length !== batch) throw new Error(`invariant: ${caches.length} caches for a batch of ${batch}`);
  const sequences = caches.map((cache) => ({ cache, rows: length }));
  return stepStates(kernels, config, weights, ids, sequences);
}

/**
 * One step of several sequences, each with as many new positions as it has: their rows go through the weights
 * together, and each attends to its own past. A row does not depend on which others are in the step, as far as the
 * kernels' rows do not.
 *
 * @param ids token ids in [0, V): the new positions of all sequences, one after another
 * @returns [R, D], R = ids.length; the caller disposes of it
 */
export function stepStates(
  kernels: Kernels,
  config: LlamaConfig,
  weights: Weights,
  ids: Int32Array,
  sequences: readonly SequenceRows[],
): tf.Tensor2D {
  const rows = sequences.reduce((sum, sequence) => sum + sequence.rows, 0);
  if (ids.length !== rows) throw new Error(`invariant: ${ids.length} ids for ${rows} positions`);
  const x_RD = stream({ kernels, config, weights, batch: 1, length: rows, sequences }, ids);
  for (const { cache, rows: added } of sequences) cache.advance(added);
  return x_RD;
}

function stream(run: Run, ids: Int32Array): tf.Tensor2D {
  const { kernels, config, weights } = run;
  return tf.tidy(() => {
    const tables = ropeTables(run);
    let x = kernels.embedding(tf.tensor1d(ids, "int32"), matrix(weights, "model.embed_tokens.weight"));
    for (let layer = 0; layer < config.numHiddenLayers; layer++) {
      x = block(run, layer, x, tables);
    }
    return kernels.rmsNorm(x, vector(weights, "model.norm.weight"), config.rmsNormEps);
  });
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
  /** With caches all rows are one batch item; null in training. */
  readonly sequences: readonly SequenceRows[] | null;
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
  const { kernels, config, batch, length, sequences } = run;
  const prefix = `model.layers.${layer}.self_attn.`;
  const heads = (name: string, count: number): tf.Tensor4D =>
    tf.reshape(project(run, prefix + name, x_RD, config.attentionBias), [batch, length, count, config.headDim]);
  const q_BTNH = heads("q_proj", config.numAttentionHeads);
  const k_BTKH = heads("k_proj", config.numKeyValueHeads);
  const v_BTKH = heads("v_proj", config.numKeyValueHeads);
  const [turnedQ_BTNH, turnedK_BTKH] = [kernels.rope(q_BTNH, tables), kernels.rope(k_BTKH, tables)];
  const mixed_BTNH = sequences
    ? cachedAttention(kernels, sequences, layer, turnedQ_BTNH, turnedK_BTKH, v_BTKH)
    : kernels.causalAttention(turnedQ_BTNH, turnedK_BTKH, v_BTKH, 0);
  const width = config.numAttentionHeads * config.headDim;
  const mixed_RO = tf.reshape(mixed_BTNH, [batch * length, width]) as tf.Tensor2D;
  return project(run, `${prefix}o_proj`, mixed_RO, config.attentionBias);
}

/** Attention of each sequence's rows over its own past. */
function cachedAttention(
  kernels: Kernels,
  sequences: readonly SequenceRows[],
  layer: number,
  q_1RNH: tf.Tensor4D,
  k_1RKH: tf.Tensor4D,
  v_1RKH: tf.Tensor4D,
): tf.Tensor4D {
  let first = 0;
  const mixed = sequences.map(({ cache, rows }) => {
    const [q, k, v] = [q_1RNH, k_1RKH, v_1RKH].map((x) => rowsOf(x, first, rows)) as [
      tf.Tensor4D,
      tf.Tensor4D,
      tf.Tensor4D,
    ];
    first += rows;
    const { k_1SKH, v_1SKH } = cache.append(layer, k, v, 0, kernels);
    return kernels.causalAttention(q, k_1SKH, v_1SKH, cache.length);
  });
  return mixed.length === 1 ? (mixed[0] as tf.Tensor4D) : tf.concat(mixed, 1);
}

/** @returns positions first .. first + rows - 1, [1, rows, N, H]. */
function rowsOf(x_1RNH: tf.Tensor4D, first: number, rows: number): tf.Tensor4D {
  const [, all, heads, headDim] = x_1RNH.shape;
  return rows === all ? x_1RNH : tf.slice(x_1RNH, [0, first, 0, 0], [1, rows, heads, headDim]);
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

/** The angles of positions 0 .. length - 1, or, with caches, of the rows of all sequences. */
function ropeTables({ config, length, sequences }: Run): RopeTables {
  const half = config.headDim / 2;
  const [cos, sin] = [new Float32Array(length * half), new Float32Array(length * half)];
  let first = 0;
  for (const [offset, rows] of sequences?.map(({ cache, rows }) => [cache.length, rows] as const) ?? [[0, length]]) {
    const angles = ropeAngles(config, offset, rows);
    cos.set(angles.cos, first * half);
    sin.set(angles.sin, first * half);
    first += rows;
  }
  return { cos: tf.tensor2d(cos, [length, half]), sin: tf.tensor2d(sin, [length, half]) };
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
