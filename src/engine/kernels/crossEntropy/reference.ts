/**
 * Reference of `crossEntropy`: the head's product and the softmax over a slab of rows at a time, so that
 * memory is that of a slab, whatever the number of rows. The backward pass computes the logits again.
 */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";
import { product, productTransposedLeft } from "../matrix.ts";

/** Logits held at once, elements; 16 MiB of float32. */
const slabElements = 1 << 22;

/** @see Kernels.crossEntropy */
export function crossEntropy(x_RD: tf.Tensor2D, head_VD: tf.Tensor2D, targets_R: tf.Tensor1D): tf.Scalar {
  return differentiable<tf.Scalar>(
    [x_RD, head_VD],
    [x_RD, head_VD, targets_R],
    () => {
      const head_DV = tf.transpose(head_VD);
      let total: tf.Scalar = tf.scalar(0);
      for (const slab of slabs(x_RD, head_VD, targets_R)) {
        total = tf.tidy(() => tf.add<tf.Scalar>(total, slabLoss(slab, head_DV)));
      }
      return total;
    },
    (dy, saved) => backward(dy, savedAt(saved, 0), savedAt(saved, 1), savedAt(saved, 2)),
  );
}

interface Slab {
  readonly x_rD: tf.Tensor2D;
  readonly targets_r: tf.Tensor1D;
  /** Rows that count, 1 or 0. */
  readonly counted_r: tf.Tensor1D;
}

function backward(dy: tf.Scalar, x_RD: tf.Tensor2D, head_VD: tf.Tensor2D, targets_R: tf.Tensor1D): tf.Tensor[] {
  const head_DV = tf.transpose(head_VD);
  const dxs: tf.Tensor2D[] = [];
  let dhead: tf.Tensor2D = tf.zerosLike(head_VD);
  for (const slab of slabs(x_RD, head_VD, targets_R)) {
    const [dx, sum] = tf.tidy(() => {
      const dlogits = tf.mul<tf.Tensor2D>(slabGradient(slab, head_DV), dy);
      return [product(dlogits, head_VD), tf.add<tf.Tensor2D>(dhead, productTransposedLeft(dlogits, slab.x_rD))];
    });
    dhead.dispose();
    dhead = sum as tf.Tensor2D;
    dxs.push(dx as tf.Tensor2D);
  }
  return [dxs.length === 1 ? (dxs[0] as tf.Tensor2D) : tf.concat(dxs, 0), dhead];
}

/** Sum of -log softmax(logits)[target] over the rows that count. */
function slabLoss({ x_rD, targets_r, counted_r }: Slab, head_DV: tf.Tensor2D): tf.Scalar {
  const logits = tf.matMul(x_rD, head_DV);
  const max = tf.max(logits, 1, true);
  const logSum = tf.add(tf.log(tf.sum(tf.exp(tf.sub(logits, max)), 1)), tf.squeeze(max, [1]));
  const rows = tf.range(0, targets_r.size, 1, "int32");
  const chosen = tf.gatherND(logits, tf.stack([rows, tf.maximum(targets_r, tf.scalar(0, "int32"))], 1));
  const losses = tf.sub(logSum, chosen);
  return tf.sum(tf.where(tf.cast(counted_r, "bool"), losses, tf.zerosLike(losses)));
}

/** softmax(logits) - onehot(target), and nothing for a row that does not count. */
function slabGradient({ x_rD, targets_r, counted_r }: Slab, head_DV: tf.Tensor2D): tf.Tensor2D {
  const logits: tf.Tensor2D = tf.matMul(x_rD, head_DV);
  const weights = tf.exp(tf.sub(logits, tf.max(logits, 1, true)));
  const p = tf.div<tf.Tensor2D>(weights, tf.sum(weights, 1, true));
  const ids_1V = tf.expandDims(tf.range(0, head_DV.shape[1], 1, "int32"), 0);
  const target = tf.cast(tf.equal(tf.expandDims(targets_r, 1), ids_1V), "float32");
  return tf.mul<tf.Tensor2D>(tf.sub(p, target), tf.expandDims(counted_r, 1));
}

function* slabs(x_RD: tf.Tensor2D, head_VD: tf.Tensor2D, targets_R: tf.Tensor1D): Generator<Slab> {
  const [rows, width] = x_RD.shape;
  const slabRows = Math.max(1, Math.floor(slabElements / head_VD.shape[0]));
  for (let start = 0; start < rows; start += slabRows) {
    const count = Math.min(slabRows, rows - start);
    const targets_r = tf.slice(targets_R, start, count);
    yield {
      x_rD: tf.slice(x_RD, [start, 0], [count, width]),
      targets_r,
      counted_r: tf.cast(tf.greaterEqual(targets_r, tf.scalar(0, "int32")), "float32") as tf.Tensor1D,
    };
  }
}
