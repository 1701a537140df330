/**
 * The backend `wasm`: tfjs on WebAssembly with fused SIMD kernels, one thread. The default: it needs nothing
 * but Node. Its heap is 32-bit, which bounds the model.
 */
import { cpus, totalmem } from "node:os";
import { createRequire } from "node:module";
import type { Backend, BackendProbe } from "./backend.ts";
import type { KernelChoice } from "../kernels/index.ts";
import { kernelVariants, variantRuns } from "../kernels/wasm/variants.ts";
import { createTfjsBackend } from "./tfjsBackend.ts";

/** A wasm heap ends at 4 GiB; what is left out is for code and for what the allocator loses. */
const heapBytes = 3.75 * 2 ** 30;
/** Share of the machine's memory that tensors may take. */
const memoryShare = 0.75;

/** @returns the backend; nothing is started. `kernels` is for finding out what is wrong, and for tests. */
export function createWasmBackend(kernels: KernelChoice = "auto"): Backend {
  const memoryBytes = Math.floor(Math.min(heapBytes, totalmem() * memoryShare));
  return createTfjsBackend({
    name: "wasm",
    description: "WebAssembly SIMD on one CPU thread; needs nothing but Node",
    preference: 10,
    probe: () => Promise.resolve(probe(memoryBytes)),
    compute: { tfjs: "wasm", kernels, memoryBytes },
  });
}

function probe(memoryBytes: number): BackendProbe {
  const variant = kernelVariants.find(variantRuns) ?? null;
  const reason = missing(variant !== null);
  return {
    available: reason === null,
    reason,
    device: cpus()[0]?.model ?? null,
    features: variant === null ? {} : { kernels: `wasm-${variant}`, threads: 1 },
    memoryBytes,
  };
}

function missing(hasSimd: boolean): string | null {
  if (!hasSimd) return "this JavaScript engine has no WebAssembly SIMD; Node 20 and later have it";
  try {
    createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm");
    return null;
  } catch {
    return "the package @tensorflow/tfjs-backend-wasm is not installed; npm ci installs it";
  }
}
