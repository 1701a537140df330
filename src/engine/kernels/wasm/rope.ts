/** `rope` on the wasm heap; see c/rope.c. */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import { requireShape, runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

export function makeRope(heap: KernelHeap, c: KernelFunctions): Kernels["rope"] {
  return (x_BTNH, { cos, sin }) => {
    const [b, t, n, h] = x_BTNH.shape;
    invariant(h % 2 === 0, `rope turns pairs of dimensions; head_dim is ${h}`);
    requireShape("rope: cos", cos, [t, h / 2]);
    requireShape("rope: sin", sin, [t, h / 2]);
    const rotate = (x: tf.Tensor4D, cosine: tf.Tensor, sine: tf.Tensor, direction: 1 | -1): tf.Tensor4D => {
      const y = heap.output<tf.Tensor4D>([b, t, n, h]);
      c.rope_rotate(b, t, n, h, heap.at(x), heap.at(cosine), heap.at(sine), direction, heap.at(y));
      return y;
    };
    return runFused<tf.Tensor4D>({
      inputs: [x_BTNH],
      constants: [cos, sin],
      forward: () => ({ value: rotate(x_BTNH, cos, sin, 1) }),
      backward: (dy_BTNH, tensors) => [rotate(dy_BTNH, saved(tensors, 1), saved(tensors, 2), -1)],
    });
  };
}
