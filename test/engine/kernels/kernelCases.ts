/** The shapes on which every implementation of the differentiable kernels is tried: awkward ones first. */
import * as tf from "@tensorflow/tfjs";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import type { AttentionSizes, Values } from "./kernelTruth.ts";
import {
  attentionTruth,
  crossEntropyTruth,
  embeddingTruth,
  linearTruth,
  rmsNormTruth,
  ropeTruth,
  swigluTruth,
} from "./kernelTruth.ts";

export interface KernelCase {
  readonly title: string;
  /** Shapes of the differentiable inputs. */
  readonly shapes: readonly (readonly number[])[];
  readonly compute: (kernels: Kernels, inputs: readonly tf.Tensor[]) => tf.Tensor;
  readonly truth: (inputs: readonly Values[]) => Values;
  /** False where the operation is not differentiable (attention over a cache). */
  readonly gradient?: false;
}

export const kernelCases: readonly KernelCase[] = [
  ...[
    [1, 1, 1],
    [1, 7, 5],
    [3, 2, 1],
    [5, 13, 17],
    [16, 64, 48],
    [37, 67, 51],
  ].flatMap(([r, i, o]) => [linearCase(r!, i!, o!, false), linearCase(r!, i!, o!, true)]),
  embeddingCase([0], 1, 1),
  embeddingCase([4, 0, 4, 4, 6, 1], 7, 5),
  embeddingCase(
    Array.from({ length: 41 }, (_, i) => (i * i) % 19),
    23,
    33,
  ),
  ...[
    [1, 1],
    [1, 5],
    [7, 13],
    [33, 64],
    [5, 131],
  ].map(([r, d]) => rmsNormCase(r!, d!)),
  ...[
    [1, 1, 1, 2],
    [2, 3, 1, 12],
    [1, 5, 3, 14],
    [3, 7, 4, 16],
  ].map((shape) => ropeCase(shape)),
  attentionCase({ batch: 1, queries: 1, keys: 1, heads: 1, kvHeads: 1, headDim: 2, offset: 0 }),
  attentionCase({ batch: 2, queries: 5, keys: 5, heads: 3, kvHeads: 1, headDim: 12, offset: 0 }),
  attentionCase({ batch: 1, queries: 7, keys: 7, heads: 4, kvHeads: 2, headDim: 14, offset: 0 }),
  attentionCase({ batch: 3, queries: 4, keys: 4, heads: 2, kvHeads: 2, headDim: 2, offset: 0 }),
  attentionCase({ batch: 1, queries: 37, keys: 37, heads: 2, kvHeads: 1, headDim: 16, offset: 0 }),
  attentionCase({ batch: 1, queries: 1, keys: 6, heads: 8, kvHeads: 2, headDim: 16, offset: 5 }),
  attentionCase({ batch: 2, queries: 3, keys: 19, heads: 3, kvHeads: 3, headDim: 6, offset: 11 }),
  attentionCase({ batch: 1, queries: 4, keys: 64, heads: 6, kvHeads: 2, headDim: 32, offset: 33 }),
  ...[
    [1, 1],
    [3, 5],
    [17, 67],
  ].map(([r, f]) => swigluCase(r!, f!)),
  crossEntropyCase([0], 1, 1),
  crossEntropyCase([2], 3, 7),
  crossEntropyCase([1, -1, 4, 4, 0], 6, 5),
  crossEntropyCase([-1, -1, 2], 9, 3),
  crossEntropyCase(
    Array.from({ length: 33 }, (_, i) => (i % 7 === 3 ? -1 : (i * 5) % 67)),
    18,
    67,
  ),
];

function linearCase(rows: number, inputs: number, outputs: number, bias: boolean): KernelCase {
  return {
    title: `linear ${rows}x${inputs} -> ${outputs}${bias ? " with bias" : ""}`,
    shapes: bias
      ? [[rows, inputs], [outputs, inputs], [outputs]]
      : [
          [rows, inputs],
          [outputs, inputs],
        ],
    compute: (kernels, [x, w, b]) =>
      b
        ? kernels.linear(x as tf.Tensor2D, w as tf.Tensor2D, b as tf.Tensor1D)
        : kernels.linear(x as tf.Tensor2D, w as tf.Tensor2D),
    truth: ([x, w, b]) => linearTruth(x!, w!, b ?? null, rows, inputs, outputs),
  };
}

function embeddingCase(ids: number[], vocab: number, width: number): KernelCase {
  return {
    title: `embedding of ${ids.length} ids, some repeated, ${vocab}x${width}`,
    shapes: [[vocab, width]],
    compute: (kernels, [table]) => kernels.embedding(tf.tensor1d(ids, "int32"), table as tf.Tensor2D),
    truth: ([table]) => embeddingTruth(ids, table!, width),
  };
}

function rmsNormCase(rows: number, width: number): KernelCase {
  return {
    title: `rmsNorm ${rows}x${width}`,
    shapes: [[rows, width], [width]],
    compute: (kernels, [x, gain]) => kernels.rmsNorm(x as tf.Tensor2D, gain as tf.Tensor1D, 1e-5),
    truth: ([x, gain]) => rmsNormTruth(x!, gain!, 1e-5),
  };
}

function ropeCase(shape: readonly number[]): KernelCase {
  const [, length, , headDim] = shape as [number, number, number, number];
  const half = headDim / 2;
  const angles = Float64Array.from({ length: length * half }, (_, i) => Math.floor(i / half) * 1.7 * 0.6 ** (i % half));
  const cos = Float64Array.from(Float32Array.from(angles, Math.cos));
  const sin = Float64Array.from(Float32Array.from(angles, Math.sin));
  return {
    title: `rope ${shape.join("x")}`,
    shapes: [shape],
    compute: (kernels, [x]) =>
      kernels.rope(x as tf.Tensor4D, {
        cos: tf.tensor2d(Float32Array.from(cos), [length, half]),
        sin: tf.tensor2d(Float32Array.from(sin), [length, half]),
      }),
    truth: ([x]) => ropeTruth(x!, shape, cos, sin),
  };
}

function attentionCase(sizes: AttentionSizes): KernelCase {
  const { batch, queries, keys, heads, kvHeads, headDim, offset } = sizes;
  const differentiable = offset === 0 && keys === queries;
  return {
    title: `causalAttention B${batch} T${queries} S${keys} N${heads} K${kvHeads} H${headDim} offset ${offset}`,
    shapes: [
      [batch, queries, heads, headDim],
      [batch, keys, kvHeads, headDim],
      [batch, keys, kvHeads, headDim],
    ],
    compute: (kernels, [q, k, v]) =>
      kernels.causalAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, offset),
    truth: ([q, k, v]) => attentionTruth(q!, k!, v!, sizes),
    ...(differentiable ? {} : { gradient: false }),
  };
}

function swigluCase(rows: number, width: number): KernelCase {
  return {
    title: `swiglu ${rows}x${width}`,
    shapes: [
      [rows, width],
      [rows, width],
    ],
    compute: (kernels, [gate, up]) => kernels.swiglu(gate as tf.Tensor2D, up as tf.Tensor2D),
    truth: ([gate, up]) => swigluTruth(gate!, up!),
  };
}

function crossEntropyCase(targets: number[], width: number, vocab: number): KernelCase {
  return {
    title: `crossEntropy of ${targets.length} rows, ${targets.filter((id) => id < 0).length} left out, ${width} -> ${vocab}`,
    shapes: [
      [targets.length, width],
      [vocab, width],
    ],
    compute: (kernels, [x, head]) =>
      kernels.crossEntropy(x as tf.Tensor2D, head as tf.Tensor2D, tf.tensor1d(targets, "int32")),
    truth: ([x, head]) => crossEntropyTruth(x!, head!, targets, width),
  };
}
