/** `linear` and its three products on the wasm heap; the arithmetic is in c/linear.c and c/gemm.c. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

/** Addresses of the operands of both gradients. */
export interface GradientArguments {
  readonly dy: number;
  readonly x: number;
  readonly w: number;
  readonly dx: number;
  readonly dw: number;
}

/** The products of `linear`, on row-major float32 matrices given by their addresses. */
export interface LinearProducts {
  /** y[R,O] = x[R,I] w[O,I]^T + bias[O]; bias 0 for none. `wantGradient`: of a forward pass that is differentiated. */
  forward(r: number, o: number, i: number, x: number, w: number, bias: number, y: number, wantGradient: boolean): void;
  /** dx[R,I] = dy[R,O] w[O,I] and dw[O,I] = dy[R,O]^T x[R,I] */
  gradients(r: number, o: number, i: number, at: GradientArguments): void;
}

/** @returns the products as the wasm module makes them. */
export function wasmProducts(heap: KernelHeap, c: KernelFunctions): LinearProducts {
  const floats = c.gemm_scratch_floats();
  return {
    forward(r, o, i, x, w, bias, y) {
      c.linear_forward(r, o, i, x, w, bias, y, heap.scratch(c.linear_scratch_floats(r, i)));
    },
    gradients(r, o, i, { dy, x, w, dx, dw }) {
      const scratch = heap.scratch(floats);
      c.linear_grad_x(r, o, i, dy, w, dx, scratch);
      c.linear_grad_w(r, o, i, dy, x, dw, scratch);
    },
  };
}

export function makeLinear(heap: KernelHeap, c: KernelFunctions, products: LinearProducts): Kernels["linear"] {
  return (x_RI, w_OI, bias_O) => {
    const [r, i] = x_RI.shape;
    const o = w_OI.shape[0];
    requireShape("linear: w", w_OI, [o, i]);
    if (bias_O) requireShape("linear: bias", bias_O, [o]);
    return runFused<tf.Tensor2D>({
      inputs: bias_O ? [x_RI, w_OI, bias_O] : [x_RI, w_OI],
      forward: (wantGradient) => {
        const value = heap.output<tf.Tensor2D>([r, o]);
        const bias = bias_O ? heap.at(bias_O) : 0;
        products.forward(r, o, i, heap.at(x_RI), heap.at(w_OI), bias, heap.at(value), wantGradient);
        return { value };
      },
      backward: (dy_RO, tensors) => {
        const dx_RI = heap.output([r, i]);
        const dw_OI = heap.output([o, i]);
        const dy = heap.at(dy_RO);
        const [x, w] = [heap.at(saved(tensors, 0)), heap.at(saved(tensors, 1))];
        products.gradients(r, o, i, { dy, x, w, dx: heap.at(dx_RI), dw: heap.at(dw_OI) });
        if (!bias_O) return [dx_RI, dw_OI];
        const dBias_O = heap.output([o]);
        c.linear_grad_bias(r, o, dy, heap.at(dBias_O));
        return [dx_RI, dw_OI, dBias_O];
      },
    });
  };
}
