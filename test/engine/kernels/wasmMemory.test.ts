/** The wasm kernels on the heap they share with tfjs: nothing leaks, nothing grows, nothing stale is left. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { createWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import { KernelHeap } from "../../../src/engine/kernels/wasm/heap.ts";
import { CodedError } from "../../../src/ops/errors.ts";

await activateTfjs("wasm");
const kernels = await createWasmKernels();
const update = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, gradScale: 0.5, step: 1 };
const [batch, length, heads, headDim, vocab] = [2, 33, 3, 10, 57];
const width = heads * headDim;

/** Every kernel once, forward and backward, with updates: a training step of a model without layers. */
function makeStep(k: Kernels): { step: () => Promise<void>; dispose: () => void } {
  const rows = batch * length;
  const ids = tf.tensor1d(
    Array.from({ length: rows }, (_, i) => (i * 5) % vocab),
    "int32",
  );
  const ramp = (shape: [number, number], scale: number): tf.Tensor2D =>
    tf.tidy(() =>
      tf
        .sin(tf.range(0, shape[0] * shape[1]))
        .mul(scale)
        .reshape(shape),
    );
  const tables = { cos: ramp([length, headDim / 2], 1), sin: ramp([length, headDim / 2], 0.5) };
  const starts = [ramp([vocab, width], 1), tf.ones([width]), ramp([width, width], 0.3)];
  const variables = starts.map((start) => tf.variable(start));
  const zeros = (start: tf.Tensor): tf.Variable => tf.tidy(() => tf.variable(tf.zerosLike(start)));
  const moments = starts.map((start) => [zeros(start), zeros(start)] as const);
  tf.dispose(starts);
  const loss = (): tf.Scalar => {
    const [table, gain, w] = variables as [tf.Variable<tf.Rank.R2>, tf.Variable<tf.Rank.R1>, tf.Variable<tf.Rank.R2>];
    const x = k.linear(k.rmsNorm(k.embedding(ids, table), gain, 1e-5), w, gain);
    const turned = k.rope(tf.reshape(x, [batch, length, heads, headDim]), tables);
    const mixed = tf.reshape<tf.Rank.R2>(k.causalAttention(turned, turned, turned, 0), [rows, width]);
    return k.crossEntropy(k.swiglu(mixed, x), table, ids);
  };
  const step = async (): Promise<void> => {
    const { value, grads } = tf.variableGrads(loss, variables);
    const list = variables.map((variable) => grads[variable.name]!);
    assert.ok(Number.isFinite(await k.sumOfSquares(list)));
    variables.forEach((variable, i) => k.adamw(variable, list[i]!, moments[i]![0], moments[i]![1], update));
    tf.dispose([value, ...list]);
  };
  return { step, dispose: () => tf.dispose([ids, tables, ...variables, ...moments.flat()]) };
}

test("200 training steps leave the number of tensors, their bytes and the heap as they were after two", async () => {
  const start = tf.memory().numTensors;
  const { step, dispose } = makeStep(kernels);
  const heap = new KernelHeap();
  const wasm = (tf.backend() as unknown as { wasm: { _malloc(n: number): number; _free(at: number): void } }).wasm;
  await step();
  await step();
  const before = { ...tf.memory(), heapBytes: heap.memory.buffer.byteLength };
  // Where the allocator would put the next 4 MiB: a leak of any size moves it on, sooner or later.
  const next = (): number => {
    const at = wasm._malloc(1 << 22);
    wasm._free(at);
    return at;
  };
  const place = next();
  for (let i = 0; i < 198; i++) await step();
  const after = { ...tf.memory(), heapBytes: heap.memory.buffer.byteLength };
  assert.deepEqual(after, before);
  assert.equal(next(), place, "the allocator's free space is where it was");
  dispose();
  assert.equal(tf.memory().numTensors, start);
});

test("decoding without a tape leaves no tensor over", () => {
  const before = tf.memory().numTensors;
  const [q, k, v] = [tf.ones([1, 1, 2, 6]), tf.ones([1, 9, 1, 6]), tf.ones([1, 9, 1, 6])] as tf.Tensor4D[];
  for (let i = 0; i < 5; i++) kernels.causalAttention(q!, k!, v!, i).dispose();
  tf.dispose([q, k, v]);
  assert.equal(tf.memory().numTensors, before);
});

test("an update in place leaves alone the tensor that a variable was made from", async () => {
  const initial = tf.tensor1d([1, 2, 3]);
  const w = tf.variable(initial);
  const [m, v] = tf.tidy(() => [tf.variable(tf.zeros([3])), tf.variable(tf.zeros([3]))] as const);
  const grad = tf.ones([3]);
  kernels.adamw(w, grad, m, v, update);
  assert.deepEqual([...initial.dataSync()], [1, 2, 3]);
  assert.ok(w.dataSync()[0]! < 1);
  tf.dispose([initial, w, m, v, grad]);
});

test("a tfjs product after an update uses the new weights, not the operand it packed before", () => {
  const start = tf.tidy(() => [tf.ones([4, 4]), tf.zeros([4, 4]), tf.zeros([4, 4])].map((t) => tf.variable(t)));
  const [w, m, v] = start as tf.Variable[];
  const x = tf.ones<tf.Rank.R2>([1, 4]);
  const first = tf.matMul(x, w as tf.Variable<tf.Rank.R2>);
  const grad = tf.ones([4, 4]);
  kernels.adamw(w!, grad, m!, v!, { ...update, learningRate: 0.5, weightDecay: 0 });
  const second = tf.matMul(x, w as tf.Variable<tf.Rank.R2>);
  assert.deepEqual([...first.dataSync()], [4, 4, 4, 4]);
  for (const value of second.dataSync()) assert.ok(Math.abs(value - 2) < 1e-5, `${value}, wanted 2`);
  tf.dispose([w!, m!, v!, x, first, grad, second]);
});

test("ids and targets outside the vocabulary are refused, and nothing leaks", () => {
  const table = tf.ones<tf.Rank.R2>([5, 3]);
  const x = tf.ones<tf.Rank.R2>([2, 3]);
  const before = tf.memory().numTensors;
  for (const bad of [-1, 5, 2 ** 31 - 1]) {
    const ids = tf.tensor1d([0, bad], "int32");
    const refused = (error: unknown): boolean => error instanceof CodedError && error.code === "invalid_request";
    assert.throws(() => kernels.embedding(ids, table), refused);
    if (bad !== -1) assert.throws(() => kernels.crossEntropy(x, table, ids), refused);
    ids.dispose();
  }
  assert.equal(tf.memory().numTensors, before);
  tf.dispose([table, x]);
});

test("shapes that do not fit together are a programmer's mistake, caught before any memory is touched", () => {
  const [a, b] = [tf.ones<tf.Rank.R2>([2, 3]), tf.ones<tf.Rank.R2>([2, 4])];
  assert.throws(() => kernels.linear(a, b), /linear: w has shape \[2,4\], wanted \[2,3\]/);
  assert.throws(() => kernels.swiglu(a, b), /swiglu: up/);
  assert.throws(
    () =>
      kernels.rmsNorm(
        a,
        tf.tidy(() => tf.ones<tf.Rank.R1>([4])),
        1e-5,
      ),
    /rmsNorm: gain/,
  );
  const q = tf.ones<tf.Rank.R4>([1, 2, 3, 4]);
  const k = tf.ones<tf.Rank.R4>([1, 2, 2, 4]);
  assert.throws(() => kernels.causalAttention(q, k, k, 0), /3 query heads do not share 2/);
  assert.throws(() => kernels.causalAttention(q, q, q, 1), /2 queries at offset 1 do not fit 2 keys/);
  const ids = tf.tensor1d([0.5]);
  assert.throws(() => kernels.embedding(ids, a), /got a float32 tensor, wanted int32/);
  tf.dispose([a, b, q, k, ids]);
});

test("a heap that is full is out_of_memory, not a write at address 0", () => {
  const heap = new KernelHeap();
  const before = tf.memory().numTensors;
  const full = (error: unknown): boolean => error instanceof CodedError && error.code === "out_of_memory";
  assert.throws(() => heap.output([1 << 15, 1 << 15]), full, "4 GiB, which the allocator would take for 0");
  assert.throws(() => heap.output([1 << 15, (1 << 15) - 1]), full, "nearly 4 GiB, which it would take for less than 0");
  assert.throws(() => heap.scratch(2 ** 29), full, "2 GiB of scratch");
  assert.ok(heap.scratch(16) > 0, "smaller ones still work");
  // Never written, so these cost address space only.
  const large = [1, 2].map(() => heap.output([3 << 14, 1 << 13]));
  assert.throws(() => heap.output([3 << 14, 1 << 13]), full, "the third of 1.5 GiB");
  tf.dispose(large);
  assert.equal(tf.memory().numTensors, before);
});
