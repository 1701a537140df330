/** `adamw` and `sumOfSquares` on the wasm heap; see c/adamw.c and c/sumOfSquares.c. */
import { requireShape } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

export function makeAdamw(heap: KernelHeap, c: KernelFunctions): Kernels["adamw"] {
  return (weight, grad, m, v, step) => {
    for (const [name, tensor] of Object.entries({ grad, m, v })) {
      requireShape(`adamw: ${name}`, tensor, weight.shape);
    }
    const { learningRate, beta1, beta2, eps, weightDecay, gradScale } = step;
    const decay = 1 - learningRate * weightDecay;
    const stepSize = learningRate / (1 - beta1 ** step.step);
    const rootCorrection = Math.sqrt(1 - beta2 ** step.step);
    const tensors = [heap.writable(weight), heap.at(grad), heap.writable(m), heap.writable(v)];
    const scalars = [gradScale, beta1, 1 - beta1, beta2, 1 - beta2, decay, stepSize, rootCorrection, eps];
    c.adamw_step(weight.size, ...tensors, ...scalars);
  };
}

export function makeSumOfSquares(heap: KernelHeap, c: KernelFunctions): Kernels["sumOfSquares"] {
  return async (tensors) => {
    let sum = 0;
    for (const tensor of tensors) sum += c.sum_of_squares(tensor.size, heap.at(tensor));
    return sum;
  };
}
