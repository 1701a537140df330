/** `adamw` in place on the variables, in one pass, and `sumOfSquares`, read back as one number for each tensor. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram, groupSum } from "./program.ts";

const adamw = defineProgram({
  name: "adamw",
  buffers: [{ name: "w", write: true }, { name: "grad" }, { name: "m", write: true }, { name: "v", write: true }],
  numbers: [
    ["count", "u32"],
    ["gradScale", "f32"],
    ["beta1", "f32"],
    ["rest1", "f32"],
    ["beta2", "f32"],
    ["rest2", "f32"],
    ["decay", "f32"],
    ["stepSize", "f32"],
    ["rootCorrection", "f32"],
    ["eps", "f32"],
  ],
  body: eachElement(
    "p.count",
    `let g = grad[i] * p.gradScale;
  let first = m[i] * p.beta1 + g * p.rest1;
  let second = v[i] * p.beta2 + g * g * p.rest2;
  m[i] = first;
  v[i] = second;
  w[i] = w[i] * p.decay - p.stepSize * (first / (sqrt(second) / p.rootCorrection + p.eps));`,
  ),
});

export function makeAdamw(gpu: Gpu): Kernels["adamw"] {
  return (weight, grad, m, v, step) => {
    for (const [name, tensor] of Object.entries({ grad, m, v })) {
      requireShape(`adamw: ${name}`, tensor, weight.shape);
    }
    const { learningRate, beta1, beta2, eps, weightDecay, gradScale } = step;
    const decay = 1 - learningRate * weightDecay;
    const stepSize = learningRate / (1 - beta1 ** step.step);
    const rootCorrection = Math.sqrt(1 - beta2 ** step.step);
    for (const variable of [weight, m, v]) gpu.writable(variable);
    const scalars = [gradScale, beta1, 1 - beta1, beta2, 1 - beta2, decay, stepSize, rootCorrection, eps];
    const numbers = [weight.size, ...scalars];
    gpu.run(adamw, [weight, grad, m, v], { groups: elementGrid(weight.size), numbers, passing: true });
  };
}

const size = 64;
/** Sums made side by side for one tensor, at most. */
const mostParts = 64;

/** Part x of a tensor: its own sum of squares, to `parts[start + y]`. */
const squares = defineProgram({
  name: "sums of squares",
  buffers: [{ name: "x" }, { name: "parts", write: true }],
  numbers: [
    ["count", "u32"],
    ["step", "u32"],
    ["start", "u32"],
  ],
  body: `${groupSum(size)}
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let end = min((group.x + 1u) * p.step, p.count);
  var sum = 0.0;
  for (var i = group.x * p.step + lane; i < end; i += ${size}u) { sum = fma(x[i], x[i], sum); }
  let total = sumOfGroup(lane, sum);
  if (lane == 0u) { parts[p.start + group.x] = total; }
}`,
});

/** @returns partial sums of squares, those of a tensor after those of the one before; the caller disposes of them. */
export function recordSquares(gpu: Gpu, tensors: readonly tf.Tensor[]): tf.Tensor1D {
  const cuts = tensors.map((tensor) => {
    const step = Math.max(size * 16, Math.ceil(tensor.size / mostParts));
    return { tensor, step, parts: Math.ceil(tensor.size / step) };
  });
  const sums = gpu.output<tf.Tensor1D>([cuts.reduce((sum, { parts }) => sum + parts, 0)]);
  let start = 0;
  for (const { tensor, step, parts } of cuts) {
    gpu.run(squares, [tensor, sums], { groups: [parts], numbers: [tensor.size, step, start] });
    start += parts;
  }
  return sums;
}

export function makeSumOfSquares(gpu: Gpu): Kernels["sumOfSquares"] {
  return async (tensors) => {
    const filled = tensors.filter((tensor) => tensor.size > 0);
    if (filled.length === 0) return 0;
    const sums = recordSquares(gpu, filled);
    // In float64 and in order: what is read back are a few numbers for each tensor.
    const total = ((await sums.data()) as Float32Array).reduce((sum, part) => sum + part, 0);
    sums.dispose();
    return total;
  };
}
