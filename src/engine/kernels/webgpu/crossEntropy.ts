/**
 * `crossEntropy` on the GPU, a chunk of rows at a time: the head's product, then one pass that turns the logits into
 * losses and, where a gradient is wanted, into the gradient of the logits in their place, then the two products that
 * carry it on. Memory is that of a chunk; the logits are computed once.
 */
import type * as tf from "@tensorflow/tfjs";
import { CodedError, invariant } from "../../../ops/errors.ts";
import { requireShape, runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import type { Multiply } from "./products.ts";
import { defineProgram, gridArguments, gridOf, groupIndex, groupMax, groupSum } from "./program.ts";

const size = 64;
/** Logits held at once, elements, at most: 64 MiB. */
const chunkElements = 1 << 24;
/**
 * The gradient of a logit lies in -1 .. 1, and most are tiny: in half precision it is multiplied by so much, which
 * overflows never and keeps a probability of 2^-29 exact to 11 bits.
 */
const halfScale = 2 ** 15;

/** Row `row` of a chunk: its loss, and the logits replaced by p.gradient (softmax - onehot) where that is not 0. */
const losses = defineProgram({
  name: "crossEntropy",
  buffers: [
    { name: "targets", element: "i32" },
    { name: "logits", write: true },
    { name: "loss", write: true },
  ],
  numbers: [
    ["rows", "u32"],
    ["vocab", "u32"],
    ["start", "u32"],
    ["gradient", "f32"],
  ],
  body: `${groupSum(size)}
${groupMax(size)}
@compute @workgroup_size(${size})
fn main(${gridArguments}) {
  let row = ${groupIndex};
  if (row >= p.rows) { return; }
  let first = row * p.vocab;
  let wanted = targets[p.start + row];
  if (wanted < 0) {
    if (lane == 0u) { loss[p.start + row] = 0.0; }
    if (p.gradient != 0.0) { for (var i = lane; i < p.vocab; i += ${size}u) { logits[first + i] = 0.0; } }
    return;
  }
  var most = -3.4e38;
  for (var i = lane; i < p.vocab; i += ${size}u) { most = max(most, logits[first + i]); }
  most = maxOfGroup(lane, most);
  var sum = 0.0;
  for (var i = lane; i < p.vocab; i += ${size}u) { sum += exp(logits[first + i] - most); }
  sum = sumOfGroup(lane, sum);
  if (lane == 0u) { loss[p.start + row] = log(sum) + most - logits[first + u32(wanted)]; }
  if (p.gradient == 0.0) { return; }
  storageBarrier();
  workgroupBarrier();
  for (var i = lane; i < p.vocab; i += ${size}u) {
    let share = exp(logits[first + i] - most) / sum;
    logits[first + i] = p.gradient * select(share, share - 1.0, i == u32(wanted));
  }
}`,
});

const total = defineProgram({
  name: "sum of losses",
  buffers: [{ name: "x" }, { name: "y", write: true }],
  numbers: [["count", "u32"]],
  body: `${groupSum(size)}
@compute @workgroup_size(${size})
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.count; i += ${size}u) { sum += x[i]; }
  sum = sumOfGroup(lane, sum);
  if (lane == 0u) { y[0] = sum; }
}`,
});

const scaled = defineProgram({
  name: "product with a scalar",
  buffers: [{ name: "x" }, { name: "factor" }, { name: "y", write: true }],
  numbers: [
    ["count", "u32"],
    ["factor2", "f32"],
  ],
  body: eachElement("p.count", "y[i] = x[i] * p.factor2 * factor[0];"),
});

/** @param f16 whether `multiply` rounds its operands to half precision */
export function makeCrossEntropy(gpu: Gpu, multiply: Multiply, f16: boolean): Kernels["crossEntropy"] {
  const gradientScale = f16 ? halfScale : 1;
  return (x_RD, head_VD, targets_R) => {
    const [r, d] = x_RD.shape;
    const v = head_VD.shape[0];
    requireShape("crossEntropy: head", head_VD, [v, d]);
    requireShape("crossEntropy: targets", targets_R, [r]);
    const bad = gpu.integers(targets_R).findIndex((id) => id < -1 || id >= v);
    if (bad >= 0) throw new CodedError("invalid_request", `target ${bad} of ${r} is neither -1 nor in 0 .. ${v - 1}`);
    invariant(r > 0, "crossEntropy of no rows");
    return runFused<tf.Scalar>({
      inputs: [x_RD, head_VD],
      forward: (wantGradient) => {
        const kept = wantGradient ? [gpu.output([r, d]), gpu.output([v, d])] : [];
        const loss_R = gpu.output([r]);
        const chunk = chunkRows(r, v);
        const logits = gpu.output([chunk, v]);
        for (let start = 0; start < r; start += chunk) {
          const rows = Math.min(chunk, r - start);
          const aStart = start * d;
          multiply({ form: "nt", m: rows, n: v, k: d, a: x_RD, aStart, b: head_VD, y: logits });
          const numbers = [rows, v, start, wantGradient ? gradientScale : 0];
          gpu.run(losses, [targets_R, logits, loss_R], { groups: gridOf(rows), numbers });
          const [dx, dHead] = kept;
          if (!dx || !dHead) continue;
          multiply({ form: "nn", m: rows, n: d, k: v, a: logits, b: head_VD, y: dx, yStart: aStart });
          const accumulate = start > 0;
          multiply({ form: "tn", m: v, n: d, k: rows, a: logits, b: x_RD, bStart: aStart, y: dHead, accumulate });
        }
        const value = gpu.output<tf.Scalar>([]);
        gpu.run(total, [loss_R, value], { groups: [1], numbers: [r] });
        loss_R.dispose();
        logits.dispose();
        return { value, kept };
      },
      backward: (dy, tensors) =>
        [2, 3].map((index) => {
          const gradient = saved(tensors, index);
          const { size: count, shape } = gradient;
          const y = gpu.output(shape);
          gpu.run(scaled, [gradient, dy, y], { groups: elementGrid(count), numbers: [count, 1 / gradientScale] });
          return y;
        }),
    });
  };
}

/** @returns rows whose logits are made at once: all, or as many as fit in whole tiles. */
function chunkRows(rows: number, vocab: number): number {
  const most = Math.max(1, Math.floor(chunkElements / vocab));
  if (rows <= most) return rows;
  return most >= 128 ? Math.floor(most / 128) * 128 : most;
}
