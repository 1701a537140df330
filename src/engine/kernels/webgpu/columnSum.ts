/**
 * Sums over the rows of a matrix, column by column, in two passes: rows are cut into a fixed number of parts whose
 * sums are made side by side and then added in their order. The bytes depend on the shape alone.
 */
import type * as tf from "@tensorflow/tfjs";
import type { Gpu } from "./gpu.ts";
import { defineProgram } from "./program.ts";

const size = 64;
/** Parts that the rows are cut into, at most. */
const mostParts = 64;

const program = defineProgram({
  name: "column sums",
  buffers: [{ name: "x" }, { name: "y", write: true }],
  numbers: [
    ["rows", "u32"],
    ["columns", "u32"],
    ["step", "u32"],
  ],
  body: `
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * ${size}u + lane;
  if (column >= p.columns) { return; }
  var sum = 0.0;
  let end = min((group.y + 1u) * p.step, p.rows);
  for (var row = group.y * p.step; row < end; row++) { sum += x[row * p.columns + column]; }
  y[group.y * p.columns + column] = sum;
}`,
});

/** @returns [columns] sums of `x`, a tensor of rows x columns elements. */
export function sumOfColumns(gpu: Gpu, x: tf.Tensor, rows: number, columns: number): tf.Tensor1D {
  const y = gpu.output<tf.Tensor1D>([columns]);
  const step = Math.ceil(rows / Math.min(mostParts, Math.ceil(rows / 16)));
  const parts = Math.ceil(rows / step);
  const across = Math.ceil(columns / size);
  if (parts === 1) {
    gpu.run(program, [x, y], { groups: [across, 1], numbers: [rows, columns, step] });
    return y;
  }
  const sums = gpu.output([parts, columns]);
  gpu.run(program, [x, sums], { groups: [across, parts], numbers: [rows, columns, step] });
  gpu.run(program, [sums, y], { groups: [across, 1], numbers: [parts, columns, parts] });
  sums.dispose();
  return y;
}
