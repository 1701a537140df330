/** What the native kernels promise beyond the contract: large shapes, repeatability, and an honest refusal. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { openBlas } from "../../../src/engine/kernels/native/blas.ts";
import { createNativeKernels } from "../../../src/engine/kernels/native/createNativeKernels.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { createWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { assertClose, sample } from "./kernelContract.ts";

const missing = await missingBlas();
const options = { skip: missing ?? false };
await activateTfjs("wasm");

function random<T extends tf.Tensor>(shape: number[], seed: number): T {
  return tf.tensor(
    Float32Array.from(
      sample(
        shape.reduce((a, b) => a * b),
        seed,
      ),
    ),
    shape,
  ) as T;
}

/** Values and gradients of a model of one layer and a head, as the trainer takes them; tensors disposed of. */
function lossAndGradients(kernels: Kernels, tensors: readonly tf.Tensor[], targets: tf.Tensor1D): Float32Array[] {
  const loss = (...[x, w, bias, head]: tf.Tensor[]): tf.Tensor => {
    const y = kernels.linear(x as tf.Tensor2D, w as tf.Tensor2D, bias as tf.Tensor1D);
    return kernels.crossEntropy(y, head as tf.Tensor2D, targets);
  };
  const { value, grads } = tf.valueAndGrads(loss)([...tensors]);
  const results = [value, ...grads].map((tensor) => Float32Array.from(tensor.dataSync()));
  tf.dispose([value, ...grads]);
  return results;
}

for (const [rows, inputs, outputs, vocab] of [
  [523, 37, 61, 1003],
  [257, 300, 129, 77],
  [1, 9, 5, 3],
] as const) {
  test(
    `native: ${rows} rows, ${inputs} -> ${outputs}, vocabulary ${vocab}: loss and gradients are those of wasm`,
    options,
    async () => {
      const [native, wasm] = [await createNativeKernels(), await createWasmKernels()];
      const scale = (tensor: tf.Tensor): tf.Tensor => tf.tidy(() => tensor.mul(0.2));
      const raw = [
        random([rows, inputs], 1),
        random([outputs, inputs], 2),
        random([outputs], 3),
        random([vocab, outputs], 4),
      ];
      const tensors = raw.map(scale);
      const targets = tf.tensor1d(
        Array.from({ length: rows }, (_, i) => (i % 11 === 5 ? -1 : (i * 7) % vocab)),
        "int32",
      );
      const before = tf.memory().numTensors;
      const got = lossAndGradients(native, tensors, targets);
      const wanted = lossAndGradients(wasm, tensors, targets);
      got.forEach((values, i) => assertClose(values, wanted[i]!, 2e-5, `result ${i}`));
      assert.deepEqual(lossAndGradients(native, tensors, targets), got, "the same bytes again");
      assert.deepEqual(
        lossAndGradients(await createNativeKernels(), tensors, targets),
        got,
        "and from a fresh instance",
      );
      assert.equal(tf.memory().numTensors, before);
      tf.dispose([...raw, ...tensors, targets]);
    },
  );
}

test("native: a few rows without a gradient have the bytes of wasm, whatever is beside them", options, async () => {
  const [native, wasm] = [await createNativeKernels(), await createWasmKernels()];
  const [x, w, bias] = [
    random<tf.Tensor2D>([8, 300], 1),
    random<tf.Tensor2D>([70, 300], 2),
    random<tf.Tensor1D>([70], 3),
  ];
  for (const rows of [1, 2, 3, 4]) {
    const part = tf.slice(x, [8 - rows, 0], [rows, 300]);
    const [got, wanted] = [native, wasm].map(({ linear }) => linear(part, w, bias)) as [tf.Tensor2D, tf.Tensor2D];
    assert.deepEqual(got.dataSync(), wanted.dataSync());
    tf.dispose([part, got, wanted]);
  }
  tf.dispose([x, w, bias]);
});

test("native: products are right after the heap has grown", options, async () => {
  const { linear } = await createNativeKernels();
  const [x, w] = [random<tf.Tensor2D>([20, 33], 1), random<tf.Tensor2D>([12, 33], 2)];
  const first = linear(x, w);
  const { wasm } = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
  const size = wasm.HEAPU8.byteLength;
  const filler = tf.zeros([Math.ceil(size / 4)]);
  const second = linear(x, w);
  assert.ok(wasm.HEAPU8.byteLength > size);
  assert.deepEqual(second.dataSync(), first.dataSync());
  tf.dispose([x, w, first, second, filler]);
});

test("without a library the refusal says what is missing and where it can be had", options, async () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const error = await openBlas(memory, ["libnosuchblas.so.7"]).then(
    () => assert.fail("it should have failed"),
    (thrown: CodedError) => thrown,
  );
  assert.equal(error.code, "backend_unavailable");
  assert.match(error.message, /no BLAS library was found \(libnosuchblas\.so\.7\).*libopenblas0-pthread.*Homebrew/);
});

test("the kernels are named after the library and the wasm build", options, async () => {
  assert.match((await createNativeKernels({ variant: "simd128" })).name, /^native \(.+, wasm-simd128\)$/);
});

test("without koffi the probe of native says so, and wasm is chosen", () => {
  const index = fileURLToPath(new URL("../../../src/engine/backends/index.ts", import.meta.url));
  const script = `import { registerHooks } from "node:module";
    registerHooks({ resolve(name, context, next) {
      if (name === "koffi") throw new Error("Cannot find package 'koffi'");
      return next(name, context);
    } });
    const { chooseBackend, getBackend } = await import(${JSON.stringify(index)});
    const { available, reason } = await getBackend("native").probe();
    console.log(JSON.stringify({ available, reason, chosen: (await chooseBackend("auto")).name }));`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    timeout: 30_000,
  });
  const { available, reason, chosen } = JSON.parse(output) as { available: boolean; reason: string; chosen: string };
  assert.equal(available, false);
  assert.match(reason, /the package koffi does not load; npm installs it as an optional dependency/);
  assert.equal(chosen, "wasm");
});
