/**
 * `embedding` on the GPU. Its gradient adds rows of dy to the rows of the table that they were read from. Atomic
 * additions would add them in another order each time; instead the host, which has the ids, sorts the rows by id,
 * and a workgroup adds up the rows of one id in their order: the same bytes on every run.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../../ops/errors.ts";
import { runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram, gridArguments, gridOf, groupIndex } from "./program.ts";

const size = 64;

const gather = defineProgram({
  name: "embedding",
  buffers: [{ name: "ids", element: "i32" }, { name: "table" }, { name: "y", write: true }],
  numbers: [
    ["count", "u32"],
    ["width", "u32"],
  ],
  body: eachElement("p.count", "y[i] = table[u32(ids[i / p.width]) * p.width + i % p.width];"),
});

const clear = defineProgram({
  name: "fill with zeros",
  buffers: [{ name: "y", write: true }],
  numbers: [["count", "u32"]],
  body: eachElement("p.count", "y[i] = 0.0;"),
});

/** `runs`: for each id that occurs, the id and where its rows begin in `order`; a last entry ends the last run. */
const scatter = defineProgram({
  name: "embedding backward",
  buffers: [
    { name: "runs", element: "i32" },
    { name: "order", element: "i32" },
    { name: "dy" },
    { name: "dTable", write: true },
  ],
  numbers: [
    ["count", "u32"],
    ["width", "u32"],
  ],
  body: `
@compute @workgroup_size(${size})
fn main(${gridArguments}) {
  let run = ${groupIndex};
  if (run >= p.count) { return; }
  let id = u32(runs[run * 2u]);
  let end = u32(runs[run * 2u + 3u]);
  for (var i = lane; i < p.width; i += ${size}u) {
    var sum = 0.0;
    for (var at = u32(runs[run * 2u + 1u]); at < end; at++) { sum += dy[u32(order[at]) * p.width + i]; }
    dTable[id * p.width + i] = sum;
  }
}`,
});

export function makeEmbedding(gpu: Gpu): Kernels["embedding"] {
  return (ids_R, table_VD) => {
    const r = ids_R.shape[0];
    const [v, d] = table_VD.shape;
    const ids = gpu.integers(ids_R);
    const bad = ids.findIndex((id) => id < 0 || id >= v);
    if (bad >= 0) {
      throw new CodedError("invalid_request", `token ${bad} of ${r}: its id is not in 0 .. ${v - 1}`);
    }
    return runFused<tf.Tensor2D>({
      inputs: [table_VD],
      constants: [ids_R],
      forward: () => {
        const value = gpu.output<tf.Tensor2D>([r, d]);
        gpu.run(gather, [ids_R, table_VD, value], { groups: elementGrid(r * d), numbers: [r * d, d] });
        return { value };
      },
      backward: (dy_RD, tensors) => {
        const { order, runs, count } = rowsById(gpu.integers(saved(tensors, 1)));
        const dTable_VD = gpu.output([v, d]);
        gpu.run(clear, [dTable_VD], { groups: elementGrid(v * d), numbers: [v * d] });
        tf.tidy(() => {
          const lists = [tf.tensor1d(runs, "int32"), tf.tensor1d(order, "int32")];
          const numbers = [count, d];
          gpu.run(scatter, [...lists, dy_RD, dTable_VD], { groups: gridOf(count), numbers, passing: true });
        });
        return [dTable_VD];
      },
    });
  };
}

/** @returns the rows ordered by id, equal ids in their own order, and the runs of equal ids, `count` of them. */
function rowsById(ids: Int32Array): { order: Int32Array; runs: Int32Array; count: number } {
  const order = Int32Array.from(ids.keys()).sort((a, b) => (ids[a] as number) - (ids[b] as number) || a - b);
  // As many entries whatever the ids, so that the device's buffers have one size.
  const runs = new Int32Array(2 * (ids.length + 1));
  let count = 0;
  for (const [at, row] of order.entries()) {
    const id = ids[row] as number;
    if (at > 0 && ids[order[at - 1] as number] === id) continue;
    runs.set([id, at], 2 * count++);
  }
  runs.set([0, ids.length], 2 * count);
  return { order, runs, count };
}
