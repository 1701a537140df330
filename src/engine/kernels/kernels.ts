/**
 * The kernel seam: the few operations that cost the time of a Llama. The model is written once against this
 * interface; each backend supplies the fastest implementation it has of each operation, and the reference,
 * plain tfjs ops on the `cpu` backend, says what is right. All are differentiable in the tensors marked
 * [grad] through `tf.customGrad` or plain tfjs. All tensors are float32 unless they are ids.
 *
 * Shape letters: B batch, T query positions, S key positions, N query heads, K key/value heads, H head_dim,
 * D hidden, F intermediate, V vocabulary, R rows (usually B x T), I inputs, O outputs.
 */
import type * as tf from "@tensorflow/tfjs";
import type { DeferredUpdates } from "./deferred.ts";
import type { KernelVariant } from "./wasm/variants.ts";

/** cos and sin of the rotary angle for each position and frequency; [T, H/2] each, not differentiated. */
export interface RopeTables {
  readonly cos: tf.Tensor2D;
  readonly sin: tf.Tensor2D;
}

export interface AdamwStep {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled (Loshchilov & Hutter): w is multiplied by 1 - learningRate * weightDecay first. 0 for none. */
  readonly weightDecay: number;
  /** Multiplies the gradient first: the factor of clipping by global norm, and of gradient accumulation. */
  readonly gradScale: number;
  /** Number of this update, from 1; for bias correction. */
  readonly step: number;
}

/** The build of `inference/` that gives a row the bytes of these kernels. */
export interface InferenceKernels {
  readonly variant: KernelVariant;
  /** What the machine itself has, where it gives the same numbers: its BLAS for many rows, the build for AVX-512. */
  readonly native: boolean;
}

export interface Kernels {
  /** Name shown by `/v1/backends` and in test titles, e.g. `reference`, `wasm-simd`. */
  readonly name: string;

  /** y[R,O] = x[R,I] w[O,I]^T (+ bias[O]).  [grad x, w, bias] */
  linear(x_RI: tf.Tensor2D, w_OI: tf.Tensor2D, bias_O?: tf.Tensor1D): tf.Tensor2D;

  /** rows of a table: y[R,D] = table[ids[R], :]; ids int32 in [0, V).  [grad table: scatter-add] */
  embedding(ids_R: tf.Tensor1D, table_VD: tf.Tensor2D): tf.Tensor2D;

  /** x / sqrt(mean(x^2) + eps) * gain, along the last axis.  [grad x, gain] */
  rmsNorm(x_RD: tf.Tensor2D, gain_D: tf.Tensor1D, eps: number): tf.Tensor2D;

  /**
   * Rotary embedding in the half-rotation layout (dims i and i + H/2 form a pair), position t of `tables`
   * for position t of `x`.  [grad x]
   */
  rope(x_BTNH: tf.Tensor4D, tables: RopeTables): tf.Tensor4D;

  /**
   * softmax(q k^T / sqrt(H)) v with a causal mask, grouped-query: query head n reads key/value head
   * floor(n / (N / K)). Query t sits at absolute position `offset + t` and sees keys 0 .. offset + t;
   * so S >= offset + T, and `offset` = S - T where a cache precedes the queries (training: 0).
   * Keys beyond a query's own position are never read.  [grad q, k, v where offset = 0 and S = T]
   */
  causalAttention(q_BTNH: tf.Tensor4D, k_BSKH: tf.Tensor4D, v_BSKH: tf.Tensor4D, offset: number): tf.Tensor4D;

  /** silu(gate) * up, elementwise.  [grad gate, up] */
  swiglu(gate_RF: tf.Tensor2D, up_RF: tf.Tensor2D): tf.Tensor2D;

  /**
   * Sum over rows of -log softmax(x head^T)[target], rows with target -1 left out: a scalar. The head's
   * matrix product is part of it so that [R, V] need never exist in whole.  [grad x, head]
   */
  crossEntropy(x_RD: tf.Tensor2D, head_VD: tf.Tensor2D, targets_R: tf.Tensor1D): tf.Scalar;

  /**
   * Overwrites positions at .. at + T - 1 of `target`, in place, with sequence `index` of `source`. Nothing else may
   * hold the target's bytes. A backend whose tensors cannot be changed leaves it out.
   */
  writePositions?(target_1SKH: tf.Tensor4D, at: number, source_BTKH: tf.Tensor4D, index: number): void;

  /**
   * Adds numbers of another memory to a tensor, in place: gradients of other threads. Nothing else may hold the
   * tensor's bytes. A backend whose trainings have one thread leaves it out.
   */
  addInPlace?(target: tf.Tensor, values: Float32Array): void;

  /** Generation and scoring go beside tfjs, on memory that threads share; absent where there is no such thing. */
  readonly inference?: InferenceKernels;

  /** One AdamW update, in place on the three variables (`m` and `v`: first and second moments). */
  adamw(weight: tf.Variable, grad: tf.Tensor, m: tf.Variable, v: tf.Variable, step: AdamwStep): void;

  /** Sum of squares of all elements of all tensors, as a JavaScript number accumulated in a fixed order. */
  sumOfSquares(tensors: readonly tf.Tensor[]): Promise<number>;

  /** Updates that are decided on the device. Left out where reading a number does not hold computing up. */
  readonly deferred?: DeferredUpdates;
}
