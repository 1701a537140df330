/** `swiglu` on the wasm heap; see c/swiglu.c. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

export function makeSwiglu(heap: KernelHeap, c: KernelFunctions): Kernels["swiglu"] {
  return (gate_RF, up_RF) => {
    const { shape, size } = gate_RF;
    requireShape("swiglu: up", up_RF, shape);
    return runFused<tf.Tensor2D>({
      inputs: [gate_RF, up_RF],
      forward: () => {
        const value = heap.output<tf.Tensor2D>(shape);
        c.swiglu_forward(size, heap.at(gate_RF), heap.at(up_RF), heap.at(value));
        return { value };
      },
      backward: (dy_RF, tensors) => {
        const [dGate, dUp] = [heap.output(shape), heap.output(shape)];
        const [gate, up] = [heap.at(saved(tensors, 0)), heap.at(saved(tensors, 1))];
        c.swiglu_backward(size, gate, up, heap.at(dy_RF), heap.at(dGate), heap.at(dUp));
        return [dGate, dUp];
      },
    });
  };
}
