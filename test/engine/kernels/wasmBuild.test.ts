/** The committed builds are those of the C sources, and the choice between them is by features alone. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { createWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import type { KernelVariant } from "../../../src/engine/kernels/wasm/variants.ts";
import { candidateVariants, kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import {
  compileInference,
  compileKernels,
  compileMachine,
  inferenceBuilds,
  kernelBuilds,
  machineBuilds,
  missingCompiler,
} from "../../../scripts/buildKernels.ts";

const missing = missingCompiler();
const folder = new URL("../../../src/engine/kernels/", import.meta.url);

type Build = [path: string, compile: () => Buffer];
const builds = [
  ...Object.keys(kernelBuilds).map((name): Build => {
    return [`wasm/${name}`, () => compileKernels(name as keyof typeof kernelBuilds)];
  }),
  ...Object.keys(inferenceBuilds).map((name): Build => {
    return [`inference/${name}`, () => compileInference(name as keyof typeof inferenceBuilds)];
  }),
  ...Object.keys(machineBuilds).map((path): Build => [path, () => compileMachine(path as keyof typeof machineBuilds)]),
];
for (const [path, compile] of builds) {
  test(`${path}: compiling the sources gives the committed bytes`, { skip: missing ?? false }, async () => {
    const committed = await readFile(new URL(path, folder));
    assert.ok(compile().equals(committed), "run node scripts/buildKernels.ts");
  });
}

test("there is one build for each variant, and each that can be chosen loads under its name", async () => {
  assert.deepEqual(Object.keys(kernelBuilds).sort(), kernelVariants.map((v) => `kernels.${v}.wasm`).sort());
  assert.deepEqual(Object.keys(inferenceBuilds).sort(), kernelVariants.map((v) => `inference.${v}.wasm`).sort());
  await activateTfjs("wasm");
  for (const variant of kernelVariants.filter(variantRuns)) {
    assert.equal((await createWasmKernels({ variant })).name, `wasm-${variant}`);
  }
});

test("the candidates are those that run, fastest first, or the one asked for alone", () => {
  assert.deepEqual(candidateVariants(), kernelVariants.filter(variantRuns));
  assert.deepEqual(candidateVariants("simd128"), ["simd128"]);
  assert.ok(variantRuns("simd128"), "every supported Node has plain SIMD");
});

test("without a wish the build is a relaxed one wherever fused multiply-add is to be had", async () => {
  await activateTfjs("wasm");
  const names = variantRuns("relaxed") ? ["wasm-relaxed256", "wasm-relaxed"] : ["wasm-simd128"];
  for (let start = 0; start < 3; start++) assert.ok(names.includes((await createWasmKernels()).name));
});

test("a variant the engine cannot run is refused by name", (t) => {
  t.mock.method(WebAssembly, "validate", () => false);
  const refused = (wanted?: KernelVariant) => () => candidateVariants(wanted);
  const wrong =
    (pattern: RegExp) =>
    (error: unknown): boolean =>
      error instanceof CodedError && error.code === "backend_unavailable" && pattern.test(error.message);
  assert.throws(refused("relaxed"), wrong(/kernels wasm-relaxed: .* lacks relaxed SIMD/));
  assert.throws(refused("relaxed256"), wrong(/lacks 256-bit vectors/));
  assert.throws(refused(), wrong(/lacks WebAssembly SIMD/));
});
