/**
 * The Llama as a user of tfjs would write it: `tf.matMul` with its transpose flags, batched products for attention,
 * `tf.softmax`, and tfjs's own Adam. Embeddings go through one-hot rows, since the wasm backend has no gradient of
 * `tf.gather`. It is what "stock tfjs" means in bench/train.ts, and no part of the service.
 */
import * as tf from "@tensorflow/tfjs";
import type { LlamaConfig } from "../../src/ops/architectures/llamaConfig.ts";
import type { MicroBatch } from "../../src/engine/train/loss.ts";

type Weights = ReadonlyMap<string, tf.Variable>;

/** One update by tfjs's Adam. @returns the loss */
export async function naiveStep(
  config: LlamaConfig,
  weights: Weights,
  optimizer: tf.Optimizer,
  batch: MicroBatch,
): Promise<number> {
  const loss = optimizer.minimize(() => meanLoss(config, weights, batch), true, [...weights.values()])!;
  const value = (await loss.data())[0]!;
  loss.dispose();
  return value;
}

function meanLoss(config: LlamaConfig, weights: Weights, batch: MicroBatch): tf.Scalar {
  const { sequences: b, length: t } = batch;
  const { vocabSize: v, rmsNormEps: eps } = config;
  const named = (name: string): tf.Variable => weights.get(name)!;
  const rows = tf.cast(tf.oneHot(tf.tensor1d(batch.ids, "int32"), v), "float32") as tf.Tensor2D;
  let x_RD: tf.Tensor2D = tf.matMul(rows, named("model.embed_tokens.weight") as unknown as tf.Tensor2D);
  const angles = rotation(config, t);
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const of = (name: string): tf.Tensor2D => named(`model.layers.${layer}.${name}.weight`) as unknown as tf.Tensor2D;
    const before = norm(x_RD, of("input_layernorm"), eps);
    const mixed = attention(config, before, of, angles, b, t);
    x_RD = tf.add<tf.Tensor2D>(x_RD, tf.matMul(mixed, of("self_attn.o_proj"), false, true));
    const after = norm(x_RD, of("post_attention_layernorm"), eps);
    const gate = tf.matMul(after, of("mlp.gate_proj"), false, true);
    const up = tf.matMul(after, of("mlp.up_proj"), false, true);
    const gated = tf.mul(tf.mul(gate, tf.sigmoid(gate)), up) as tf.Tensor2D;
    x_RD = tf.add<tf.Tensor2D>(x_RD, tf.matMul(gated, of("mlp.down_proj"), false, true));
  }
  const last = norm(x_RD, named("model.norm.weight") as unknown as tf.Tensor2D, eps);
  const logits_RV = tf.matMul(last, named("lm_head.weight") as unknown as tf.Tensor2D, false, true);
  const wanted = tf.cast(tf.oneHot(tf.tensor1d(batch.targets, "int32"), v), "float32");
  const logProbabilities = tf.sub(logits_RV, tf.logSumExp(logits_RV, 1, true));
  return tf.neg(tf.mean<tf.Scalar>(tf.sum(tf.mul(wanted, logProbabilities), 1)));
}

function norm(x_RD: tf.Tensor2D, gain: tf.Tensor, eps: number): tf.Tensor2D {
  const meanSquare = tf.mean(tf.square(x_RD), 1, true);
  return tf.mul<tf.Tensor2D>(tf.mul(x_RD, tf.rsqrt(tf.add(meanSquare, eps))), gain);
}

interface Rotation {
  readonly cos: tf.Tensor;
  readonly sin: tf.Tensor;
}

/** [T, H] each, both halves alike. */
function rotation({ headDim, ropeTheta }: LlamaConfig, t: number): Rotation {
  const half = tf.range(0, headDim / 2).div(-headDim / 2);
  const frequencies = tf.pow(tf.scalar(ropeTheta), half);
  const angle = tf.matMul(tf.range(0, t).expandDims(1), frequencies.expandDims(0)).tile([1, 2]);
  return { cos: tf.cos(angle), sin: tf.sin(angle) };
}

function attention(
  { numAttentionHeads: n, headDim: h }: LlamaConfig,
  x_RD: tf.Tensor2D,
  of: (name: string) => tf.Tensor2D,
  { cos, sin }: Rotation,
  b: number,
  t: number,
): tf.Tensor2D {
  const heads = (name: string): tf.Tensor =>
    tf
      .matMul(x_RD, of(`self_attn.${name}_proj`), false, true)
      .reshape([b, t, n, h])
      .transpose([0, 2, 1, 3]);
  const turned = (x: tf.Tensor): tf.Tensor => {
    const [left, right] = tf.split(x, 2, 3);
    return tf.add(tf.mul(x, cos), tf.mul(tf.concat([tf.neg(right!), left!], 3), sin));
  };
  const [q, k, v] = [turned(heads("q")), turned(heads("k")), heads("v")];
  const scores = tf.matMul(q, k, false, true).div(Math.sqrt(h));
  const mask = tf.linalg
    .bandPart(tf.ones([t, t]), -1, 0)
    .sub(1)
    .mul(1e9);
  const mixed = tf.matMul(tf.softmax(scores.add(mask)), v);
  return mixed.transpose([0, 2, 1, 3]).reshape([b * t, n * h]) as tf.Tensor2D;
}
