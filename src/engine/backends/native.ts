/**
 * The backend `native`: as `wasm`, with the matrix products done by a BLAS of the machine, several times as fast. It
 * is preferred where the library is there; where it is not, the probe says where it can be had and nothing else is
 * missed. With oneDNN and a processor that multiplies bfloat16 it trains with precision bf16 too; on one with AVX-512
 * training, generation and scoring have kernels built for it.
 */
import type { Backend, BackendOptions, BackendProbe } from "./backend.ts";
import { loadAvx512 } from "../kernels/inference/avx512.ts";
import { loadAvx512 as loadTraining } from "../kernels/native/avx512.ts";
import { openBlas } from "../kernels/native/blas.ts";
import { openOneDnn } from "../kernels/native/oneDnn.ts";
import type { KernelVariant } from "../kernels/wasm/variants.ts";
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
    compute: {
      ...{ tfjs: "wasm", kernels: "native", precisions: { bf16: "native-bf16" } as const },
      ...{ variant, threads, memoryBytes: wasmMemoryBytes() },
    },
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
      const { features, refusal } = await probeBf16();
      const inference = await probeInference(wasm.features["kernels"]);
      const training = await probeTraining(wasm.features["kernels"], options.variant ?? null);
      const own = { blas: blas.name, ...training, ...inference, ...features };
      return { ...wasm, features: { ...wasm.features, ...own }, precisions: { bf16: refusal } };
    } catch (error) {
      return { ...wasm, available: false, reason: messageOf(error), features: {} };
    }
  };
}

/** What a training computes beside its products by. @param kernels name of the wasm kernels */
async function probeTraining(
  kernels: BackendProbe["features"][string] = "",
  wanted: KernelVariant | null,
): Promise<BackendProbe["features"]> {
  if (wanted !== null) return { training: kernels, training_reason: `COMPUTE_KERNELS asks for ${wanted}` };
  if (kernels !== "wasm-relaxed256") {
    return { training: kernels, training_reason: `kernels for AVX-512 go with wasm-relaxed256, not ${kernels}` };
  }
  try {
    await loadTraining(new WebAssembly.Memory({ initial: 1 }));
    return { training: "avx512" };
  } catch (error) {
    return { training: kernels, training_reason: messageOf(error) };
  }
}

/** What generation and scoring are computed by. @param kernels name of the wasm kernels */
async function probeInference(kernels: BackendProbe["features"][string] = ""): Promise<BackendProbe["features"]> {
  if (kernels !== "wasm-relaxed256") {
    return { inference: kernels, inference_reason: `kernels for AVX-512 go with wasm-relaxed256, not ${kernels}` };
  }
  try {
    await loadAvx512(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }));
    return { inference: "avx512" };
  } catch (error) {
    return { inference: kernels, inference_reason: messageOf(error) };
  }
}

async function probeBf16(): Promise<{ features: BackendProbe["features"]; refusal: string | null }> {
  try {
    const { name } = await openOneDnn(new WebAssembly.Memory({ initial: 1 }));
    return { features: { bf16: name }, refusal: null };
  } catch (error) {
    const refusal = `precision bf16: ${messageOf(error)}`;
    return { features: { bf16: false, bf16_reason: messageOf(error) }, refusal };
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
