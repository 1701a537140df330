/**
 * The kernels of the `native` backend: those of `wasm`, on the same heap, with the matrix products of `linear` and of
 * `crossEntropy`'s head done by a BLAS of the machine. These are nine tenths of a training's arithmetic.
 *
 * Same shapes and inputs, same bytes, on one machine with one library; another processor or release may round
 * otherwise. Without a gradient a row has the numbers of the wasm kernels, alone and among others: native/linear.ts.
 */
import type { Kernels } from "../kernels.ts";
import { openWasmKernels } from "../wasm/createWasmKernels.ts";
import type { WasmKernelOptions, WasmKernels } from "../wasm/createWasmKernels.ts";
import { makeCrossEntropy } from "../wasm/crossEntropy.ts";
import { makeLinear, wasmProducts } from "../wasm/linear.ts";
import { openBlas } from "./blas.ts";
import type { Blas } from "./blas.ts";
import { blasCrossEntropy } from "./crossEntropy.ts";
import { blasProducts } from "./linear.ts";

/**
 * Wants the `wasm` backend of tfjs to be set up.
 * @returns kernels named after the library and the wasm build, e.g. `native (OpenBLAS 0.3.21 SkylakeX, wasm-relaxed)`
 * @throws backend_unavailable when there is no BLAS, koffi or WebAssembly SIMD
 */
export async function createNativeKernels(options: WasmKernelOptions = {}): Promise<Kernels> {
  const wasm = await openWasmKernels(options);
  return withBlas(wasm, await openBlas(wasm.heap.memory));
}

/** @returns the wasm kernels with their products replaced by those of `blas`. */
export function withBlas({ kernels, heap, functions }: WasmKernels, blas: Blas): Kernels {
  return {
    ...kernels,
    name: `native (${blas.name}, ${kernels.name})`,
    linear: makeLinear(heap, functions, blasProducts(heap, wasmProducts(heap, functions), blas)),
    crossEntropy: makeCrossEntropy(heap, functions, blasCrossEntropy(heap, functions, blas)),
  };
}
