/**
 * The backend `wasm`: tfjs on WebAssembly with fused SIMD kernels. The default: it needs nothing but Node. Its heap
 * is 32-bit, which bounds the model; each thread of a training has one of its own.
 */
import { cpus, totalmem } from "node:os";
import { createRequire } from "node:module";
import type { Backend, BackendProbe } from "./backend.ts";
import { measureVariant } from "../kernels/wasm/measureVariant.ts";
import { kernelVariants, variantRuns } from "../kernels/wasm/variants.ts";
import type { KernelVariant } from "../kernels/wasm/variants.ts";
import type { BackendOptions } from "./backend.ts";
import { createTfjsBackend } from "./tfjsBackend.ts";

/** A wasm heap ends at 4 GiB; what is left out is for code and for what the allocator loses. */
const heapBytes = 3.75 * 2 ** 30;
/** Share of the machine's memory that tensors may take. */
const memoryShare = 0.75;

/** @returns the backend; nothing is started. */
export function createWasmBackend(options: BackendOptions = {}): Backend {
  const { variant = null, threads = 1 } = options;
  return createTfjsBackend({
    name: "wasm",
    description: "WebAssembly SIMD, training on several CPU threads; needs nothing but Node",
    preference: 10,
    probe: wasmProbe(options),
    compute: { tfjs: "wasm", kernels: "auto", variant, threads, memoryBytes: wasmMemoryBytes() },
  });
}

/** @returns the bytes that tensors may take on one wasm heap of this machine. */
export function wasmMemoryBytes(): number {
  return Math.floor(Math.min(heapBytes, totalmem() * memoryShare));
}

/** @returns a probe that, when it measures, tells the build that the trial at start-up chooses; it does so once. */
export function wasmProbe(options: BackendOptions): Backend["probe"] {
  let measured: Promise<KernelVariant> | null = null;
  return async ({ measure = false } = {}) => {
    const probe = probeWasm(options);
    if (!measure || !probe.available) return probe;
    try {
      const variant = await (measured ??= measureVariant(options.variant ?? null));
      return { ...probe, features: { ...probe.features, kernels: `wasm-${variant}` } };
    } catch (error) {
      const reason = `the kernels did not load: ${error instanceof Error ? error.message : String(error)}`;
      return { ...probe, available: false, reason, features: {} };
    }
  };
}

/** Whether the wasm kernels run here, and the build that would be tried first. */
function probeWasm({ variant: wanted = null, threads = 1 }: BackendOptions): BackendProbe {
  const variant = (wanted === null ? kernelVariants : [wanted]).find(variantRuns) ?? null;
  const reason = missing(variant, wanted);
  return {
    available: reason === null,
    reason,
    device: cpus()[0]?.model ?? null,
    features: variant === null ? {} : { kernels: `wasm-${variant}`, threads },
    memoryBytes: wasmMemoryBytes(),
  };
}

function missing(variant: KernelVariant | null, wanted: KernelVariant | null): string | null {
  if (variant === null && wanted !== null) {
    return `this JavaScript engine does not run the kernels that COMPUTE_KERNELS asks for, ${wanted}`;
  }
  if (variant === null) return "this JavaScript engine has no WebAssembly SIMD; Node 20 and later have it";
  try {
    createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm");
    return null;
  } catch {
    return "the package @tensorflow/tfjs-backend-wasm is not installed; npm ci installs it";
  }
}
