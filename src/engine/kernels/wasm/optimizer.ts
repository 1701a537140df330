/** `adamw`, `sumOfSquares` and `addInPlace` on the wasm heap; see c/adamw.c, c/sumOfSquares.c and c/addInPlace.c. */
import { invariant } from "../../../ops/errors.ts";
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

/** Numbers that are brought to the heap at once: they stay in the nearest cache until they are added. */
const chunk = 4096;

export function makeAddInPlace(heap: KernelHeap, c: KernelFunctions): NonNullable<Kernels["addInPlace"]> {
  return (target, values) => {
    invariant(heap.owners(target) === 1, `a tensor of shape [${target.shape.join()}] shares its bytes`);
    invariant(target.size === values.length, `${values.length} numbers for a tensor of ${target.size}`);
    const [at, room] = [heap.at(target), heap.scratch(chunk)];
    const copied = new Float32Array(heap.memory.buffer, room, chunk);
    for (let start = 0; start < values.length; start += chunk) {
      const part = values.subarray(start, start + chunk);
      copied.set(part);
      c.add_in_place(part.length, at + start * 4, room);
    }
  };
}

export function makeSumOfSquares(heap: KernelHeap, c: KernelFunctions): Kernels["sumOfSquares"] {
  return async (tensors) => {
    let sum = 0;
    for (const tensor of tensors) sum += c.sum_of_squares(tensor.size, heap.at(tensor));
    return sum;
  };
}
