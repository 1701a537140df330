/** `rmsNorm` on the GPU: a workgroup for each row; the gain's gradient is a column sum of what the rows contribute. */
import type * as tf from "@tensorflow/tfjs";
import { requireShape, runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { sumOfColumns } from "./columnSum.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram, gridArguments, gridOf, groupIndex, groupSum } from "./program.ts";

const size = 64;

const numbers = [
  ["rows", "u32"],
  ["width", "u32"],
  ["eps", "f32"],
] as const;

/** The start of both programs: the row, and 1 / rms of it. */
const inverseRms = `
  let row = ${groupIndex};
  if (row >= p.rows) { return; }
  let start = row * p.width;
  var squares = 0.0;
  for (var i = lane; i < p.width; i += ${size}u) { squares = fma(x[start + i], x[start + i], squares); }
  let r = inverseSqrt(sumOfGroup(lane, squares) / f32(p.width) + p.eps);`;

const forward = defineProgram({
  name: "rmsNorm",
  buffers: [{ name: "x" }, { name: "gain" }, { name: "y", write: true }],
  numbers,
  body: `${groupSum(size)}
@compute @workgroup_size(${size})
fn main(${gridArguments}) {${inverseRms}
  for (var i = lane; i < p.width; i += ${size}u) { y[start + i] = x[start + i] * r * gain[i]; }
}`,
});

/** dx = r (g - n mean(g n)) with n = x r and g = dy gain; and dy n, whose column sums are the gain's gradient. */
const backward = defineProgram({
  name: "rmsNorm backward",
  buffers: [
    { name: "x" },
    { name: "gain" },
    { name: "dy" },
    { name: "dx", write: true },
    { name: "gains", write: true },
  ],
  numbers,
  body: `${groupSum(size)}
@compute @workgroup_size(${size})
fn main(${gridArguments}) {${inverseRms}
  var along = 0.0;
  for (var i = lane; i < p.width; i += ${size}u) { along += dy[start + i] * gain[i] * x[start + i] * r; }
  let mean = sumOfGroup(lane, along) / f32(p.width);
  for (var i = lane; i < p.width; i += ${size}u) {
    let n = x[start + i] * r;
    let g = dy[start + i];
    dx[start + i] = r * (g * gain[i] - n * mean);
    gains[start + i] = g * n;
  }
}`,
});

export function makeRmsNorm(gpu: Gpu): Kernels["rmsNorm"] {
  return (x_RD, gain_D, eps) => {
    const [r, d] = x_RD.shape;
    requireShape("rmsNorm: gain", gain_D, [d]);
    const options = { groups: gridOf(r), numbers: [r, d, eps] };
    return runFused<tf.Tensor2D>({
      inputs: [x_RD, gain_D],
      forward: () => {
        const value = gpu.output<tf.Tensor2D>([r, d]);
        gpu.run(forward, [x_RD, gain_D, value], options);
        return { value };
      },
      backward: (dy_RD, tensors) => {
        const dx_RD = gpu.output([r, d]);
        const gains_RD = gpu.output([r, d]);
        gpu.run(backward, [saved(tensors, 0), saved(tensors, 1), dy_RD, dx_RD, gains_RD], options);
        const dGain_D = sumOfColumns(gpu, gains_RD, r, d);
        gains_RD.dispose();
        return [dx_RD, dGain_D];
      },
    });
  };
}
