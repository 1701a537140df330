/**
 * Rounding float32 to half precision in WGSL, for operands of products. What half precision cannot hold becomes
 * infinity whatever the device would make of it (WGSL leaves that open): an overflow must be seen in the result, for
 * it is by that that a training with a scaled loss notices one.
 */
import type * as tf from "@tensorflow/tfjs";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram } from "./program.ts";

/** WGSL of `half(x)` and `half4(x)`; wants `enable f16;`. */
export const halfText = `
// A variable: a constant infinity is not WGSL.
var<private> infinities: u32 = 0x7c007c00u;
fn half4(x: vec4f) -> vec4h {
  return select(vec4h(x), bitcast<vec4h>(vec2u(infinities)), abs(x) > vec4f(65504.0));
}
fn half(x: f32) -> f32 { return f32(select(f16(x), bitcast<vec2h>(infinities).x, abs(x) > 65504.0)); }`;

const rounding = defineProgram({
  name: "rounding to half precision",
  enable: "enable f16;",
  buffers: [{ name: "x" }, { name: "y", write: true }],
  numbers: [
    ["count", "u32"],
    ["start", "u32"],
  ],
  body: halfText + eachElement("p.count", "y[i] = half(x[p.start + i]);"),
});

/** @returns `count` elements of a tensor from `start` on, as float32 that half precision can hold, or infinite. */
export function toHalf(gpu: Gpu, x: tf.Tensor, start: number, count: number): tf.Tensor {
  const y = gpu.output([count]);
  gpu.run(rounding, [x, y], { groups: elementGrid(count), numbers: [count, start] });
  return y;
}
