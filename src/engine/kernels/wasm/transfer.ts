/**
 * Moving the bytes of many tensors between the heap of tfjs and memory that threads share, without a copy in
 * between. The tensors lie one after the other in the shared memory, as float32, in the order they are given.
 */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import type { Kernels } from "../kernels.ts";
import { KernelHeap } from "./heap.ts";

export interface HeapTransfer {
  /** Writes the tensors into `to`. */
  copyOut(tensors: readonly tf.Tensor[], to: Float32Array): void;
  /** Overwrites the variables with `from`. */
  copyIn(from: Float32Array, variables: readonly tf.Variable[]): void;
  /** tensor += from by the kernel for it, in place; the tensors must be the only owners of their bytes. */
  addTo(tensors: readonly tf.Tensor[], from: Float32Array, add: NonNullable<Kernels["addInPlace"]>): void;
}

/** @throws backend_unavailable when the wasm backend of tfjs has not been set up */
export function createHeapTransfer(): HeapTransfer {
  const heap = new KernelHeap();
  const view = (address: number, size: number): Float32Array => new Float32Array(heap.memory.buffer, address, size);
  return {
    copyOut(tensors, to) {
      eachPart(tensors, to, (tensor, part) => part.set(view(heap.at(tensor), tensor.size)));
    },
    copyIn(from, variables) {
      eachPart(variables, from, (variable, part) => view(heap.writable(variable), variable.size).set(part));
    },
    addTo(tensors, from, add) {
      eachPart(tensors, from, (tensor, part) => add(tensor, part));
    },
  };
}

function eachPart<T extends tf.Tensor>(
  tensors: readonly T[],
  shared: Float32Array,
  visit: (tensor: T, part: Float32Array) => void,
): void {
  let start = 0;
  for (const tensor of tensors) {
    visit(tensor, shared.subarray(start, start + tensor.size));
    start += tensor.size;
  }
  invariant(start === shared.length, `tensors of ${start} elements for ${shared.length} elements of shared memory`);
}
