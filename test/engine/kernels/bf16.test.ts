/**
 * Mixed precision: rounding to bfloat16 bit for bit, products that are exact in what was rounded, the contract of the
 * kernel seam within what 8 bits of precision allow, and honest refusals.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { createBf16Kernels } from "../../../src/engine/kernels/native/createNativeKernels.ts";
import { openOneDnn } from "../../../src/engine/kernels/native/oneDnn.ts";
import { loadKernels } from "../../../src/engine/kernels/wasm/module.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import { missingBf16 } from "../../helpers/blas.ts";
import { assertClose, kernelContract, sample } from "./kernelContract.ts";

const missing = await missingBf16();
const options = { skip: missing ?? false };

/** IEEE 754 rounding to nearest, ties to even, told by comparing with the two neighbours in float64. */
function nearest(x: number): number {
  if (Number.isNaN(x)) return NaN;
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  const below = bits & 0xffff0000;
  const [low, high] = [below, below + 0x10000].map((b) => new Float32Array(Uint32Array.of(b >>> 0).buffer)[0]!) as [
    number,
    number,
  ];
  if (low === x) return x;
  // Beyond the largest finite value the next would be 2^128.
  const next = Number.isFinite(high) ? high : Math.sign(x) * 2 ** 128;
  const [down, up] = [Math.abs(x - low), Math.abs(next - x)];
  if (down !== up) return down < up ? low : high;
  return (below >>> 16) % 2 === 0 ? low : high;
}

/** Numbers of all sizes, ties, and the ends of the range. */
function hardNumbers(): Float32Array {
  const patterns = [0, 1, 0x7fff, 0x8000, 0x8001, 0x18000, 0x3f808000, 0x3f818000, 0x7f7f7fff, 0x7f7f8000, 0x7f7fffff];
  patterns.push(0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, 0x00800000, 0x007fffff);
  let state = 99;
  for (let i = 0; i < 4000; i++) patterns.push((state = (Math.imul(state, 1664525) + 1013904223) >>> 0));
  const signed = patterns.flatMap((bits) => [bits, (bits ^ 0x80000000) >>> 0]);
  return new Float32Array(Uint32Array.from(signed).buffer);
}

for (const variant of kernelVariants.filter(variantRuns)) {
  test(`${variant}: to_bf16 rounds to the nearest, ties to even, and writes nothing else, at any length`, async () => {
    const memory = new WebAssembly.Memory({ initial: 4 });
    const c = await loadKernels(variant, memory);
    const numbers = hardNumbers();
    for (const size of [0, 1, 3, 7, 8, 9, 17, numbers.length]) {
      new Float32Array(memory.buffer, 1024, size).set(numbers.subarray(0, size));
      const bytes = new Uint16Array(memory.buffer, 131_072, size + 8).fill(0xabcd);
      c.to_bf16(size, 1024, 131_072);
      for (let i = 0; i < size; i++) {
        const got = new Float32Array(Uint32Array.of(bytes[i]! << 16).buffer)[0]!;
        assert.ok(Object.is(got, nearest(numbers[i]!)), `${numbers[i]} became ${got}, wanted ${nearest(numbers[i]!)}`);
      }
      assert.deepEqual([...bytes.subarray(size)], new Array(8).fill(0xabcd), "what lies behind is left alone");
    }
  });
}

test("a product of numbers that bfloat16 holds is as exact as in float32, in every orientation", options, async () => {
  await activateTfjs("wasm");
  const kernels = await createBf16Kernels();
  const exact = (shape: [number, number], seed: number): tf.Tensor2D =>
    tf.tensor2d(Float32Array.from(sample(shape[0] * shape[1], seed), nearest), shape);
  const [x, w, dy] = [exact([37, 65], 1), exact([23, 65], 2), exact([37, 23], 3)];
  const compute = (a: tf.Tensor, b: tf.Tensor): tf.Tensor => kernels.linear(a as tf.Tensor2D, b as tf.Tensor2D);
  const { value, grads } = tf.tidy(() => tf.valueAndGrads(compute)([x, w], dy));
  const [rows, columns, dys] = [await x.array(), await w.array(), await dy.array()];
  const dot = (a: number[], b: number[]): number => a.reduce((sum, v, i) => sum + v * b[i]!, 0);
  const across = (m: number[][], i: number): number[] => m.map((row) => row[i]!);
  assertClose(
    await value.data(),
    rows.flatMap((a) => columns.map((b) => dot(a, b))),
    1e-6,
    "y",
  );
  const dx = dys.flatMap((d) => Array.from({ length: 65 }, (_, i) => dot(d, across(columns, i))));
  assertClose(await grads[0]!.data(), dx, 1e-6, "dx");
  const dw = Array.from({ length: 23 }, (_, o) =>
    Array.from({ length: 65 }, (_, i) => dot(across(dys, o), across(rows, i))),
  ).flat();
  assertClose(await grads[1]!.data(), dw, 1e-6, "dw");
  tf.dispose([x, w, dy, value, ...grads]);
});

test("the kernels are named after the library, the instructions and the wasm build", options, async () => {
  await activateTfjs("wasm");
  const { name } = await createBf16Kernels({ variant: "simd128" });
  assert.match(name, /^native-bf16 \(oneDNN \d+\.\d+\.\d+ (AMX|AVX512_BF16), wasm-simd128\)$/);
});

test("without the library the refusal says what is missing and where it can be had", async () => {
  const error = await openOneDnn(new WebAssembly.Memory({ initial: 1 }), ["libnosuchdnnl.so.7"]).then(
    () => assert.fail("it should have failed"),
    (thrown: CodedError) => thrown,
  );
  assert.equal(error.code, "backend_unavailable");
  assert.match(error.message, /no oneDNN library was found \(libnosuchdnnl\.so\.7\).*libdnnl2|koffi does not load/);
});

// An operand is off by 2^-9 of itself at most, a product of two by 2^-8; sums of many of either sign by less.
const tolerances = { value: 2 ** -7, gradient: 2 ** -6 };
if (missing === null) kernelContract("wasm", "native-bf16", () => createBf16Kernels(), tolerances);
else test("the bf16 kernels keep the contract", { skip: missing });
