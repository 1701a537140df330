/** Which kernels a tfjs backend gets. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { CodedError } from "../../../src/ops/errors.ts";

// First, while the wasm backend of tfjs is not set up: its kernels cannot load then.
test("kernels that do not load are replaced by the reference, with the reason, unless they were asked for", async () => {
  const { kernels, fallbackReason } = await kernelsFor("wasm");
  assert.equal(kernels.name, "reference");
  assert.match(fallbackReason ?? "", /wasm-simd did not load: .+/);
  await assert.rejects(kernelsFor("wasm", "wasm-simd"), ({ code }: CodedError) => code === "backend_unavailable");
});

test("a build of the kernels that was asked for is loaded, or refused, but never replaced", async () => {
  await assert.rejects(kernelsFor("wasm", "auto", "simd128"), ({ code }: CodedError) => code === "backend_unavailable");
  await activateTfjs("wasm");
  assert.equal((await kernelsFor("wasm", "auto", "simd128")).kernels.name, "wasm-simd128");
});

test("wasm gets its own kernels, and the reference when it is asked for", async () => {
  await activateTfjs("wasm");
  const { kernels, fallbackReason } = await kernelsFor("wasm");
  assert.match(kernels.name, /^wasm-/);
  assert.equal(fallbackReason, null);
  assert.equal((await kernelsFor("wasm", "reference")).kernels.name, "reference");
});

test("a backend without kernels of its own gets the reference, and refuses those of another", async () => {
  assert.equal((await kernelsFor("cpu")).kernels.name, "reference");
  assert.equal((await kernelsFor("constructor")).kernels.name, "reference");
  await assert.rejects(kernelsFor("cpu", "wasm-simd"), /kernels wasm-simd do not run on the cpu backend/);
});
