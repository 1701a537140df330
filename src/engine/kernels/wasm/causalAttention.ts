/**
 * `causalAttention` on the wasm heap. Up to `decodeQueries` queries (decoding, speculative or chunked) take the
 * path that reads the cache once without packing it, more take the blocked one; the bytes are the same. See
 * c/attention.h.
 */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

const decodeQueries = 4;

/** @returns the path for `queries` of them. */
export function attentionFor(c: KernelFunctions, queries: number): KernelFunctions["attention_decode"] {
  return queries <= decodeQueries ? c.attention_decode : c.attention_forward;
}

export function makeCausalAttention(heap: KernelHeap, c: KernelFunctions): Kernels["causalAttention"] {
  return (q_BTNH, k_BSKH, v_BSKH, offset) => {
    const [b, t, n, h] = q_BTNH.shape;
    const [, s, k] = k_BSKH.shape;
    requireShape("causalAttention: k", k_BSKH, [b, s, k, h]);
    requireShape("causalAttention: v", v_BSKH, [b, s, k, h]);
    invariant(k > 0 && n % k === 0, `causalAttention: ${n} query heads do not share ${k} key/value heads evenly`);
    const fits = Number.isSafeInteger(offset) && offset >= 0 && offset + t <= s;
    invariant(fits, `causalAttention: ${t} queries at offset ${offset} do not fit ${s} keys`);
    return runFused<tf.Tensor4D>({
      inputs: [q_BTNH, k_BSKH, v_BSKH],
      forward: () => {
        const value = heap.output<tf.Tensor4D>([b, t, n, h]);
        const lse_BNT = heap.output([b, n, t]);
        const tensors = [heap.at(q_BTNH), heap.at(k_BSKH), heap.at(v_BSKH), heap.at(value), heap.at(lse_BNT)];
        const scratch = heap.scratch(c.attention_forward_scratch_floats(t, n, k, h));
        attentionFor(c, t)(b, t, s, n, k, h, offset, ...tensors, scratch);
        return { value, kept: [value, lse_BNT] };
      },
      backward: (dOut_BTNH, tensors) => {
        invariant(offset === 0 && s === t, "causalAttention is differentiated only where all keys are its own");
        const [dq, dk, dv] = [heap.output([b, t, n, h]), heap.output([b, s, k, h]), heap.output([b, s, k, h])];
        const inputs = [0, 1, 2, 3, 4].map((index) => heap.at(saved(tensors, index)));
        const gradients = [heap.at(dOut_BTNH), heap.at(dq), heap.at(dk), heap.at(dv)];
        const scratch = heap.scratch(c.attention_backward_scratch_floats(t, n, k, h));
        c.attention_backward(b, t, n, k, h, ...inputs, ...gradients, scratch);
        return [dq, dk, dv];
      },
    });
  };
}
