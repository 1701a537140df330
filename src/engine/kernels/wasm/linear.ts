/** `linear` and its three products on the wasm heap; the arithmetic is in c/linear.c and c/gemm.c. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

export function makeLinear(heap: KernelHeap, c: KernelFunctions): Kernels["linear"] {
  const scratchFloats = c.gemm_scratch_floats();
  return (x_RI, w_OI, bias_O) => {
    const [r, i] = x_RI.shape;
    const o = w_OI.shape[0];
    requireShape("linear: w", w_OI, [o, i]);
    if (bias_O) requireShape("linear: bias", bias_O, [o]);
    return runFused<tf.Tensor2D>({
      inputs: bias_O ? [x_RI, w_OI, bias_O] : [x_RI, w_OI],
      forward: () => {
        const value = heap.output<tf.Tensor2D>([r, o]);
        const bias = bias_O ? heap.at(bias_O) : 0;
        const scratch = heap.scratch(scratchFloats);
        c.linear_forward(r, o, i, heap.at(x_RI), heap.at(w_OI), bias, heap.at(value), scratch);
        return { value };
      },
      backward: (dy_RO, tensors) => {
        const dx_RI = heap.output([r, i]);
        const dw_OI = heap.output([o, i]);
        const dy = heap.at(dy_RO);
        const scratch = heap.scratch(scratchFloats);
        c.linear_grad_x(r, o, i, dy, heap.at(saved(tensors, 1)), heap.at(dx_RI), scratch);
        c.linear_grad_w(r, o, i, dy, heap.at(saved(tensors, 0)), heap.at(dw_OI), scratch);
        if (!bias_O) return [dx_RI, dw_OI];
        const dBias_O = heap.output([o]);
        c.linear_grad_bias(r, o, dy, heap.at(dBias_O));
        return [dx_RI, dw_OI, dBias_O];
      },
    });
  };
}
