/** `linear` on the GPU: the product and its two gradients as matrix products; the bias's gradient is a column sum. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { sumOfColumns } from "./columnSum.ts";
import type { Gpu } from "./gpu.ts";
import type { Multiply } from "./products.ts";

export function makeLinear(gpu: Gpu, multiply: Multiply): Kernels["linear"] {
  return (x_RI, w_OI, bias_O) => {
    const [m, k] = x_RI.shape;
    const n = w_OI.shape[0];
    requireShape("linear: w", w_OI, [n, k]);
    if (bias_O) requireShape("linear: bias", bias_O, [n]);
    return runFused<tf.Tensor2D>({
      inputs: bias_O ? [x_RI, w_OI, bias_O] : [x_RI, w_OI],
      forward: () => {
        const value = gpu.output<tf.Tensor2D>([m, n]);
        multiply({ form: "nt", m, n, k, a: x_RI, b: w_OI, y: value, ...(bias_O ? { bias: bias_O } : {}) });
        return { value };
      },
      backward: (dy_RO, tensors) => {
        const dx_RI = gpu.output([m, k]);
        const dw_OI = gpu.output([n, k]);
        multiply({ form: "nn", m, n: k, k: n, a: dy_RO, b: saved(tensors, 1), y: dx_RI });
        multiply({ form: "tn", m: n, n: k, k: m, a: dy_RO, b: saved(tensors, 0), y: dw_OI });
        return bias_O ? [dx_RI, dw_OI, sumOfColumns(gpu, dy_RO, m, n)] : [dx_RI, dw_OI];
      },
    });
  };
}
