/** `rmsNorm` on the wasm heap; see c/rmsNorm.c. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

export function makeRmsNorm(heap: KernelHeap, c: KernelFunctions): Kernels["rmsNorm"] {
  return (x_RD, gain_D, eps) => {
    const [r, d] = x_RD.shape;
    requireShape("rmsNorm: gain", gain_D, [d]);
    return runFused<tf.Tensor2D>({
      inputs: [x_RD, gain_D],
      forward: () => {
        const value = heap.output<tf.Tensor2D>([r, d]);
        c.rms_norm_forward(r, d, eps, heap.at(x_RD), heap.at(gain_D), heap.at(value));
        return { value };
      },
      backward: (dy_RD, tensors) => {
        const [x, gain, dy] = [heap.at(saved(tensors, 0)), heap.at(saved(tensors, 1)), heap.at(dy_RD)];
        const dx_RD = heap.output([r, d]);
        const dGain_D = heap.output([d]);
        const scratch = heap.scratch(2 * d);
        c.rms_norm_backward(r, d, eps, x, gain, dy, heap.at(dx_RD), heap.at(dGain_D), scratch);
        return [dx_RD, dGain_D];
      },
    });
  };
}
