/** `rope` on the GPU: an invocation turns one pair of dimensions; the gradient is the turn back. */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import { requireShape, runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram } from "./program.ts";

/** Pair i of row (b, t, n): its position in the tables is t. */
const program = defineProgram({
  name: "rope",
  buffers: [{ name: "x" }, { name: "cosine" }, { name: "sine" }, { name: "y", write: true }],
  numbers: [
    ["pairs", "u32"],
    ["length", "u32"],
    ["heads", "u32"],
    ["half", "u32"],
    ["direction", "f32"],
  ],
  body: eachElement(
    "p.pairs",
    `let pair = i % p.half;
  let row = i / p.half;
  let t = row / p.heads % p.length;
  let c = cosine[t * p.half + pair];
  let s = sine[t * p.half + pair] * p.direction;
  let low = row * 2u * p.half + pair;
  let high = low + p.half;
  let a = x[low];
  let b = x[high];
  y[low] = a * c - b * s;
  y[high] = b * c + a * s;`,
  ),
});

export function makeRope(gpu: Gpu): Kernels["rope"] {
  return (x_BTNH, { cos, sin }) => {
    const [b, t, n, h] = x_BTNH.shape;
    invariant(h % 2 === 0, `rope turns pairs of dimensions; head_dim is ${h}`);
    requireShape("rope: cos", cos, [t, h / 2]);
    requireShape("rope: sin", sin, [t, h / 2]);
    const pairs = x_BTNH.size / 2;
    const rotate = (x: tf.Tensor4D, cosine: tf.Tensor, sine: tf.Tensor, direction: 1 | -1): tf.Tensor4D => {
      const y = gpu.output<tf.Tensor4D>([b, t, n, h]);
      const numbers = [pairs, t, n, h / 2, direction];
      gpu.run(program, [x, cosine, sine, y], { groups: elementGrid(pairs), numbers });
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
