/** `swiglu` on the GPU: one pass forward, and one backward for both gradients. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram } from "./program.ts";

const numbers = [["count", "u32"]] as const;

const forward = defineProgram({
  name: "swiglu",
  buffers: [{ name: "gate" }, { name: "up" }, { name: "y", write: true }],
  numbers,
  body: eachElement("p.count", "let g = gate[i]; y[i] = g / (1.0 + exp(-g)) * up[i];"),
});

/** silu'(g) = s + silu(g) (1 - s), with s = sigmoid(g). */
const backward = defineProgram({
  name: "swiglu backward",
  buffers: [
    { name: "gate" },
    { name: "up" },
    { name: "dy" },
    { name: "dGate", write: true },
    { name: "dUp", write: true },
  ],
  numbers,
  body: eachElement(
    "p.count",
    `let g = gate[i];
  let s = 1.0 / (1.0 + exp(-g));
  let silu = g * s;
  dGate[i] = dy[i] * up[i] * (s + silu * (1.0 - s));
  dUp[i] = dy[i] * silu;`,
  ),
});

export function makeSwiglu(gpu: Gpu): Kernels["swiglu"] {
  return (gate_RF, up_RF) => {
    const { shape, size } = gate_RF;
    requireShape("swiglu: up", up_RF, shape);
    const options = { groups: elementGrid(size), numbers: [size] };
    return runFused<tf.Tensor2D>({
      inputs: [gate_RF, up_RF],
      forward: () => {
        const value = gpu.output<tf.Tensor2D>(shape);
        gpu.run(forward, [gate_RF, up_RF, value], options);
        return { value };
      },
      backward: (dy_RF, tensors) => {
        const [dGate, dUp] = [gpu.output(shape), gpu.output(shape)];
        gpu.run(backward, [saved(tensors, 0), saved(tensors, 1), dy_RF, dGate, dUp], options);
        return [dGate, dUp];
      },
    });
  };
}
