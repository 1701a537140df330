/**
 * The backend `native`: as `wasm`, with the matrix products done by a BLAS of the machine, several times as fast. It
 * is preferred where the library is there; where it is not, the probe says where it can be had and nothing else is
 * missed.
 */
import type { Backend, BackendOptions } from "./backend.ts";
import { openBlas } from "../kernels/native/blas.ts";
import { createTfjsBackend } from "./tfjsBackend.ts";
import { wasmMemoryBytes, wasmProbe } from "./wasm.ts";

/** @returns the backend; nothing is started. */
export function createNativeBackend(options: BackendOptions = {}): Backend {
  const { variant = null, threads = 1 } = options;
  return createTfjsBackend({
    name: "native",
    description: "the machine's BLAS for matrix products, WebAssembly SIMD for the rest",
    preference: 20,
    probe: nativeProbe(options),
    compute: { tfjs: "wasm", kernels: "native", variant, threads, memoryBytes: wasmMemoryBytes() },
  });
}

function nativeProbe(options: BackendOptions): Backend["probe"] {
  const probeWasm = wasmProbe(options);
  return async (asked) => {
    const wasm = await probeWasm(asked);
    if (!wasm.available) return wasm;
    try {
      // Of the smallest memory there is: loading the library is the probe.
      const blas = await openBlas(new WebAssembly.Memory({ initial: 1 }));
      return { ...wasm, features: { ...wasm.features, blas: blas.name } };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return { ...wasm, available: false, reason, features: {} };
    }
  };
}
