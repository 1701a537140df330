/**
 * Reference of `causalAttention`: one batch row and one key/value head at a time, so that every product is
 * a plain 2-D one. The G query heads of a group are rows of the same matrix (row = t * G + g), which makes
 * the sum of their gradients into the shared key and value head part of the product. Nothing of size T x S
 * outlives a group: the backward pass computes the probabilities again.
 */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";
import { productTransposedLeft, productTransposedRight } from "../matrix.ts";

/** @see Kernels.causalAttention */
export function causalAttention(
  q_BTNH: tf.Tensor4D,
  k_BSKH: tf.Tensor4D,
  v_BSKH: tf.Tensor4D,
  offset: number,
): tf.Tensor4D {
  const shape = { group: q_BTNH.shape[2] / k_BSKH.shape[2], length: q_BTNH.shape[1], offset };
  return differentiable<tf.Tensor4D>(
    [q_BTNH, k_BSKH, v_BSKH],
    [q_BTNH, k_BSKH, v_BSKH],
    () => {
      const mask = causalMask(shape);
      return eachGroup(q_BTNH, k_BSKH, shape, (batch, head) => {
        const q = groupRows(q_BTNH, batch, head, shape);
        const k = headRows(k_BSKH, batch, head, shape);
        const v = headRows(v_BSKH, batch, head, shape);
        return [tf.matMul(probabilities(q, k, mask), v)];
      })[0] as tf.Tensor4D;
    },
    (dy, saved) => backward(dy, saved, shape),
  );
}

interface GroupShape {
  /** Query heads per key/value head. */
  readonly group: number;
  /** Query positions. */
  readonly length: number;
  readonly offset: number;
}

interface Mask {
  /** True where a row may look; [T*G, offset+T]. */
  readonly visible: tf.Tensor2D;
  readonly minusInfinity: tf.Tensor2D;
}

function backward(dy: tf.Tensor4D, saved: readonly tf.Tensor[], shape: GroupShape): tf.Tensor[] {
  const qs = savedAt<tf.Tensor4D>(saved, 0);
  const ks = savedAt<tf.Tensor4D>(saved, 1);
  const vs = savedAt<tf.Tensor4D>(saved, 2);
  if (shape.offset !== 0 || ks.shape[1] !== shape.length) {
    throw new Error(`invariant: attention has a gradient for offset 0 and equal lengths only, got ${shape.offset}`);
  }
  const mask = causalMask(shape);
  return eachGroup(qs, ks, shape, (batch, head) => {
    const q = groupRows(qs, batch, head, shape);
    const k = headRows(ks, batch, head, shape);
    const v = headRows(vs, batch, head, shape);
    const dout = groupRows(dy, batch, head, shape);
    const p = probabilities(q, k, mask);
    const dp = productTransposedRight(dout, v);
    const mean = tf.sum(tf.mul(dp, p), 1, true);
    const dscores = tf.mul<tf.Tensor2D>(tf.mul(p, tf.sub(dp, mean)), 1 / Math.sqrt(q.shape[1]));
    return [tf.matMul(dscores, k), productTransposedLeft(dscores, q), productTransposedLeft(p, dout)];
  });
}

/** softmax(q k^T / sqrt(H)) of visible keys, [T*G, S]. By hand, because tfjs's wasm softmax may drop NaN. */
function probabilities(q: tf.Tensor2D, k: tf.Tensor2D, mask: Mask): tf.Tensor2D {
  return tf.tidy(() => {
    const scores = tf.mul(productTransposedRight(q, k), 1 / Math.sqrt(q.shape[1]));
    const masked = tf.where(mask.visible, scores, mask.minusInfinity);
    const weights = tf.exp(tf.sub(masked, tf.max(masked, 1, true)));
    return tf.div<tf.Tensor2D>(weights, tf.sum(weights, 1, true));
  });
}

function causalMask({ group, length, offset }: GroupShape): Mask {
  const columns = offset + length;
  const visible = new Uint8Array(length * group * columns);
  for (let row = 0; row < length * group; row++) {
    const last = offset + Math.floor(row / group);
    visible.fill(1, row * columns, row * columns + last + 1);
  }
  const shape: [number, number] = [length * group, columns];
  return { visible: tf.tensor2d(visible, shape, "bool"), minusInfinity: tf.fill(shape, -Infinity) };
}

/** The query rows of a group, [T*G, H]. */
function groupRows(x_BTNH: tf.Tensor4D, batch: number, head: number, { group, length }: GroupShape): tf.Tensor2D {
  const headDim = x_BTNH.shape[3];
  const rows = tf.slice(x_BTNH, [batch, 0, head * group, 0], [1, length, group, headDim]);
  return tf.reshape(rows, [length * group, headDim]);
}

/** The keys or values that any query may see, [offset+T, H]; what a cache holds beyond is not read. */
function headRows(x_BSKH: tf.Tensor4D, batch: number, head: number, { length, offset }: GroupShape): tf.Tensor2D {
  const headDim = x_BSKH.shape[3];
  const rows = tf.slice(x_BSKH, [batch, 0, head, 0], [1, offset + length, 1, headDim]);
  return tf.reshape(rows, [offset + length, headDim]);
}

/** Runs `compute` for each batch row and key/value head and puts its results together again as [B, *, *, H]. */
function eachGroup(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  { length }: GroupShape,
  compute: (batch: number, head: number) => tf.Tensor2D[],
): tf.Tensor4D[] {
  const [batches, heads, headDim] = [q.shape[0], k.shape[2], q.shape[3]];
  const results: tf.Tensor[][][] = [];
  for (let batch = 0; batch < batches; batch++) {
    for (let head = 0; head < heads; head++) {
      const parts = tf.tidy(() =>
        compute(batch, head).map((part) => tf.reshape(part, [1, length, part.size / (length * headDim), headDim])),
      );
      parts.forEach((part, i) => ((results[i] ??= [])[batch] ??= []).push(part));
    }
  }
  return results.map(
    (rows) =>
      joined(
        rows.map((parts) => joined(parts, 2)),
        0,
      ) as tf.Tensor4D,
  );
}

function joined(parts: tf.Tensor[], axis: number): tf.Tensor {
  return parts.length === 1 ? (parts[0] as tf.Tensor) : tf.concat(parts, axis);
}
