/**
 * Reference of `embedding`. The gradient is a scatter-add, which tfjs's wasm backend does not have
 * (`UnsortedSegmentSum`); a one-hot product would turn one NaN row into NaN everywhere. So it is a loop in
 * JavaScript, in the order of the rows.
 */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";

/** @see Kernels.embedding */
export function embedding(ids_R: tf.Tensor1D, table_VD: tf.Tensor2D): tf.Tensor2D {
  const [vocab, width] = table_VD.shape;
  return differentiable<tf.Tensor2D>(
    [table_VD],
    [ids_R],
    () => tf.gather(table_VD, ids_R),
    (dy_RD, saved) => {
      const ids = savedAt(saved, 0).dataSync();
      const dy = dy_RD.dataSync();
      const sum = new Float32Array(vocab * width);
      for (let row = 0; row < ids.length; row++) {
        const to = (ids[row] as number) * width;
        const from = row * width;
        for (let i = 0; i < width; i++) sum[to + i] = (sum[to + i] as number) + (dy[from + i] as number);
      }
      return [tf.tensor2d(sum, [vocab, width])];
    },
  );
}
