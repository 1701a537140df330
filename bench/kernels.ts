/**
 * The wasm kernels beside tfjs's own, in one run: `node bench/kernels.ts`. Prints GFLOP/s of each matrix product
 * (GB/s of what only moves memory), medians of interleaved repetitions on one thread, at the layer sizes of a
 * small Llama (D 512, F 1376, V 4096, 1024 rows). Ratios mean something; absolute figures are of this machine.
 */
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import type { Kernels } from "../src/engine/kernels/kernels.ts";
import { createWasmKernels } from "../src/engine/kernels/wasm/createWasmKernels.ts";
import { kernelVariants, variantRuns } from "../src/engine/kernels/wasm/variants.ts";

const repetitions = 7;

interface Row {
  readonly title: string;
  /** 10^9 operations, or bytes. */
  readonly work: number;
  readonly unit: "GFLOP/s" | "GB/s";
  readonly run: (kernels: Kernels) => tf.TensorContainer;
  /** The same by stock tfjs, where it has it. */
  readonly stock?: () => tf.TensorContainer;
}

await activateTfjs("wasm");
const implementations = await Promise.all(
  kernelVariants.filter(variantRuns).map((variant) => createWasmKernels({ variant })),
);
const [R, D, F, V, T, H] = [1024, 512, 1376, 4096, 256, 64];
const [x, w, dy] = [noise([R, D]), noise([F, D]), noise([R, F])] as tf.Tensor2D[];
const [row, table] = [noise([1, D]), noise([V, D])] as tf.Tensor2D[];
const [q, k, v] = [1, 2, 3].map(() => noise([R / T, T, D / H, H])) as tf.Tensor4D[];
const [one, cache] = [noise([1, 1, D / H, H]), noise([1, 2048, D / H, H])] as tf.Tensor4D[];
const targets = tf.tensor1d(
  Array.from({ length: R }, (_, i) => (i * 37) % V),
  "int32",
);
const state = [noise([V, D]), tf.zeros([V, D]), tf.zeros([V, D])].map((tensor) => tf.variable(tensor));
const update = { learningRate: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, gradScale: 1, step: 9 };
const attentionWork = (2 * 2 * (R / T) * T * T * D * 0.5) / 1e9;
const product = (2 * R * D * F) / 1e9;

function noise(shape: number[]): tf.Tensor {
  return tf.randomNormal(shape, 0, 1, "float32", 7);
}

/** The gradients alone: the forward pass is taken before the clock starts. */
const rows: readonly Row[] = [
  {
    title: `y = x w^T           ${R}x${D} -> ${F}`,
    work: product,
    unit: "GFLOP/s",
    run: (kernels) => kernels.linear(x!, w!),
    stock: () => tf.matMul(x!, w!, false, true),
  },
  {
    title: `dx = dy w, dw = dy^T x, and y again`,
    work: 3 * product,
    unit: "GFLOP/s",
    run: (kernels) => tf.grads((a, b) => kernels.linear(a as tf.Tensor2D, b as tf.Tensor2D))([x!, w!], dy!),
    stock: () => [tf.matMul(x!, w!, false, true), tf.matMul(dy!, w!), tf.matMul(dy!, x!, true, false)],
  },
  {
    title: `decode: one row through the head ${D} -> ${V}`,
    work: (4 * V * D) / 1e9,
    unit: "GB/s",
    run: (kernels) => kernels.linear(row!, table!),
    stock: () => tf.matMul(row!, table!, false, true),
  },
  {
    title: `attention forward   ${R / T}x${T}, ${D / H} heads of ${H}`,
    work: attentionWork,
    unit: "GFLOP/s",
    run: (kernels) => kernels.causalAttention(q!, k!, v!, 0),
  },
  {
    title: `attention forward and backward`,
    work: 3.5 * attentionWork,
    unit: "GFLOP/s",
    run: (kernels) => {
      const attend = (a: tf.Tensor, b: tf.Tensor, c: tf.Tensor): tf.Tensor =>
        kernels.causalAttention(a as tf.Tensor4D, b as tf.Tensor4D, c as tf.Tensor4D, 0);
      return tf.grads(attend as (...tensors: tf.Tensor[]) => tf.Tensor)([q!, k!, v!], q!);
    },
  },
  {
    title: `attention of one query over 2048 keys`,
    work: (2 * 4 * 2048 * D) / 1e9,
    unit: "GB/s",
    run: (kernels) => kernels.causalAttention(one!, cache!, cache!, 2047),
  },
  {
    title: `cross entropy with both gradients, V ${V}`,
    work: (3 * 2 * R * D * V) / 1e9,
    unit: "GFLOP/s",
    run: (kernels) => {
      const loss = (a: tf.Tensor, b: tf.Tensor): tf.Tensor =>
        kernels.crossEntropy(a as tf.Tensor2D, b as tf.Tensor2D, targets);
      return tf.grads(loss as (...tensors: tf.Tensor[]) => tf.Tensor)([x!, table!]);
    },
  },
  {
    title: `rmsNorm, forward and backward`,
    work: (6 * 4 * R * F) / 1e9,
    unit: "GB/s",
    run: (kernels) => {
      const norm = (a: tf.Tensor, b: tf.Tensor): tf.Tensor => kernels.rmsNorm(a as tf.Tensor2D, b as tf.Tensor1D, 1e-5);
      return tf.grads(norm as (...tensors: tf.Tensor[]) => tf.Tensor)([dy!, tf.ones([F])], dy!);
    },
  },
  {
    title: `swiglu, forward and backward`,
    work: (8 * 4 * R * F) / 1e9,
    unit: "GB/s",
    run: (kernels) => {
      const gated = (a: tf.Tensor, b: tf.Tensor): tf.Tensor => kernels.swiglu(a as tf.Tensor2D, b as tf.Tensor2D);
      return tf.grads(gated as (...tensors: tf.Tensor[]) => tf.Tensor)([dy!, dy!], dy!);
    },
  },
  {
    title: `adamw, ${V * D} weights`,
    work: (7 * 4 * V * D) / 1e9,
    unit: "GB/s",
    run: (kernels) => {
      kernels.adamw(state[0]!, table!, state[1]!, state[2]!, update);
      return [];
    },
  },
];

function seconds(run: () => tf.TensorContainer): number {
  const start = performance.now();
  const result = tf.tidy(run);
  const elapsed = (performance.now() - start) / 1000;
  tf.dispose(result);
  return elapsed;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}

const names = [...implementations.map((kernels) => kernels.name), "stock tfjs"];
console.log(["".padEnd(48), ...names.map((name) => name.padStart(14))].join(""));
for (const { title, work, unit, run, stock } of rows) {
  const runs = [...implementations.map((kernels) => () => run(kernels)), ...(stock ? [stock] : [])];
  const times = runs.map((): number[] => []);
  for (let i = -1; i < repetitions; i++) {
    runs.forEach((one, at) => {
      const elapsed = seconds(one);
      if (i >= 0) times[at]!.push(elapsed); // the first round compiles
    });
  }
  const rates = times.map((list) => (work / median(list)).toFixed(1).padStart(14));
  console.log([title.padEnd(48), ...rates, `  ${unit}`].join(""));
}
