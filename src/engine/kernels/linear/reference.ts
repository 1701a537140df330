/** Reference of `linear`: y = x W^T + b with three plain 2-D products for value and gradients. */
import * as tf from "@tensorflow/tfjs";
import { differentiable, savedAt } from "../differentiable.ts";
import { product, productTransposedLeft, productTransposedRight } from "../matrix.ts";

/** @see Kernels.linear */
export function linear(x_RI: tf.Tensor2D, w_OI: tf.Tensor2D, bias_O?: tf.Tensor1D): tf.Tensor2D {
  const inputs = bias_O ? [x_RI, w_OI, bias_O] : [x_RI, w_OI];
  return differentiable<tf.Tensor2D>(
    inputs,
    [x_RI, w_OI],
    () => {
      const y_RO = productTransposedRight(x_RI, w_OI);
      return bias_O ? tf.add<tf.Tensor2D>(y_RO, bias_O) : y_RO;
    },
    (dy_RO, saved) => {
      const dx_RI = product(dy_RO, savedAt<tf.Tensor2D>(saved, 1));
      const dw_OI = productTransposedLeft(dy_RO, savedAt<tf.Tensor2D>(saved, 0));
      return bias_O ? [dx_RI, dw_OI, tf.sum(dy_RO, 0)] : [dx_RI, dw_OI];
    },
  );
}
