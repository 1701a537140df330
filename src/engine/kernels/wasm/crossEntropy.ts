/**
 * `crossEntropy` on the wasm heap. Where a gradient is wanted it is made in the forward pass, chunk by chunk
 * while the logits are there (one product of the head's size less than computing them again), and the backward
 * pass only multiplies it by the gradient of the sum. See c/crossEntropy.c.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError, invariant } from "../../../ops/errors.ts";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

/** Addresses of [R,D] x, [V,D] head, [R] int32 targets, and of the two gradients (0: not wanted). */
export interface CrossEntropyArguments {
  readonly x: number;
  readonly head: number;
  readonly targets: number;
  readonly dx: number;
  readonly dHead: number;
}

/** @returns the sum of the losses; writes the gradients where they are wanted. The targets have been checked. */
export type CrossEntropyPass = (r: number, v: number, d: number, at: CrossEntropyArguments) => number;

/** @returns the pass as the wasm module makes it. */
export function wasmCrossEntropy(heap: KernelHeap, c: KernelFunctions): CrossEntropyPass {
  return (r, v, d, { x, head, targets, dx, dHead }) =>
    c.cross_entropy(r, v, d, x, head, targets, dx, dHead, heap.scratch(c.cross_entropy_scratch_floats(r, v)));
}

export function makeCrossEntropy(
  heap: KernelHeap,
  c: KernelFunctions,
  pass: CrossEntropyPass,
): Kernels["crossEntropy"] {
  return (x_RD, head_VD, targets_R) => {
    const [r, d] = x_RD.shape;
    const v = head_VD.shape[0];
    requireShape("crossEntropy: head", head_VD, [v, d]);
    requireShape("crossEntropy: targets", targets_R, [r]);
    const bad = c.cross_entropy_check(r, v, heap.at(targets_R, "int32"));
    if (bad >= 0) throw new CodedError("invalid_request", `target ${bad} of ${r} is neither -1 nor in 0 .. ${v - 1}`);
    let differentiated = false;
    return runFused<tf.Scalar>({
      inputs: [x_RD, head_VD],
      forward: (wantGradient) => {
        const kept = wantGradient ? [heap.output([r, d]), heap.output([v, d])] : [];
        const [dx = 0, dHead = 0] = kept.map((tensor) => heap.at(tensor));
        const [x, head, targets] = [heap.at(x_RD), heap.at(head_VD), heap.at(targets_R, "int32")];
        const loss = pass(r, v, d, { x, head, targets, dx, dHead });
        return { value: tf.scalar(loss), kept };
      },
      backward: (dy, tensors) => {
        invariant(!differentiated, "the gradient of one crossEntropy was taken twice; it is scaled in place");
        differentiated = true;
        const factor = dy.dataSync()[0] ?? 0;
        return [2, 3].map((index) => {
          const gradient = saved(tensors, index);
          if (factor !== 1) c.scale_in_place(gradient.size, heap.at(gradient), factor);
          return gradient.clone();
        });
      },
    });
  };
}
