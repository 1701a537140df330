/**
 * The backend `native`: as `wasm`, with the matrix products done by a BLAS of the machine, several times as fast. It
 * is preferred where the library is there; where it is not, the probe says where it can be had and nothing else is
 * missed.
 */
import { cpus } from "node:os";
import type { Backend, BackendProbe } from "./backend.ts";
import { openBlas } from "../kernels/native/blas.ts";
import { createTfjsBackend } from "./tfjsBackend.ts";
import { probeWasm, wasmMemoryBytes } from "./wasm.ts";

/** @returns the backend; nothing is started. */
export function createNativeBackend(): Backend {
  return createTfjsBackend({
    name: "native",
    description: "the machine's BLAS for matrix products, WebAssembly SIMD for the rest",
    preference: 20,
    probe,
    compute: { tfjs: "wasm", kernels: "native", memoryBytes: wasmMemoryBytes() },
  });
}

async function probe(): Promise<BackendProbe> {
  const wasm = probeWasm();
  if (!wasm.available) return wasm;
  try {
    // Of the smallest memory there is: loading the library is the probe.
    const blas = await openBlas(new WebAssembly.Memory({ initial: 1 }));
    return { ...wasm, device: cpus()[0]?.model ?? null, features: { ...wasm.features, blas: blas.name } };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { ...wasm, available: false, reason, features: {} };
  }
}
