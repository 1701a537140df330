/**
 * The kernels of the `native` backend: those of `wasm`, on the same heap, with the matrix products of `linear` and of
 * `crossEntropy`'s head done by a BLAS of the machine. These are nine tenths of a training's arithmetic. On processors
 * with AVX-512 what else costs the time is done by a build for them, with the bytes of the wasm kernels.
 *
 * Same shapes and inputs, same bytes, on one machine with one library; another processor or release may round
 * otherwise. Without a gradient a row has the numbers of the wasm kernels, alone and among others: native/linear.ts.
 */
import type { Kernels } from "../kernels.ts";
import { unlessMissing } from "../machine/avx512.ts";
import { KernelHeap } from "../wasm/heap.ts";
import { kernelsOn, openWasmKernels } from "../wasm/createWasmKernels.ts";
import type { WasmKernelOptions, WasmKernels } from "../wasm/createWasmKernels.ts";
import { makeCrossEntropy } from "../wasm/crossEntropy.ts";
import { makeLinear, wasmProducts } from "../wasm/linear.ts";
import { loadAvx512 } from "./avx512.ts";
import { bf16Linear, roundingBlas } from "./bf16.ts";
import { openBlas } from "./blas.ts";
import type { Blas } from "./blas.ts";
import { blasCrossEntropy } from "./crossEntropy.ts";
import { blasProducts } from "./linear.ts";
import { openOneDnn } from "./oneDnn.ts";
import type { Bf16Products } from "./oneDnn.ts";
import { givesSameBytes } from "./trial.ts";

/**
 * Wants the `wasm` backend of tfjs to be set up.
 * @returns kernels named after the library and the wasm build, e.g. `native (OpenBLAS 0.3.21 SkylakeX, wasm-relaxed)`
 * @throws backend_unavailable when there is no BLAS, koffi or WebAssembly SIMD
 */
export async function createNativeKernels(options: WasmKernelOptions = {}): Promise<Kernels> {
  const wasm = await openNativeKernels(options);
  return withBlas(wasm, await openBlas(wasm.heap.memory));
}

/**
 * As `createNativeKernels`, with operands of products rounded to bfloat16: for training in mixed precision.
 * @returns kernels named e.g. `native-bf16 (oneDNN 2.6.3 AVX512_BF16, wasm-relaxed)`
 * @throws backend_unavailable when there is no oneDNN, koffi, WebAssembly SIMD, or no bfloat16 in the processor
 */
export async function createBf16Kernels(options: WasmKernelOptions = {}): Promise<Kernels> {
  const wasm = await openNativeKernels(options);
  return withBf16(wasm, await openOneDnn(wasm.heap.memory));
}

/**
 * The wasm kernels, with the build for AVX-512 in place of what it has, where it runs and gives the same bytes. Whoever
 * insists on a build of the wasm kernels gets that. The name is the same for either, since the bytes are.
 * @throws backend_unavailable as `openWasmKernels`
 */
export async function openNativeKernels(options: WasmKernelOptions = {}): Promise<WasmKernels> {
  const wasm = await openWasmKernels(options);
  const { kernels, heap, functions } = wasm;
  if (options.variant !== undefined || kernels.inference?.variant !== "relaxed256") return wasm;
  const own = await unlessMissing(loadAvx512(heap.memory));
  if (own === null || !givesSameBytes(heap, own, functions)) return wasm;
  const all = { ...functions, ...own };
  return { heap, functions: all, kernels: { ...kernels, ...kernelsOn(heap, all, kernels.name) } };
}

/** @returns the wasm kernels with their products replaced by those of `blas`. */
export function withBlas({ kernels, heap, functions }: WasmKernels, blas: Blas): Kernels {
  const products = blasProducts(heap, wasmProducts(heap, functions), blas);
  return {
    ...kernels,
    name: `native (${blas.name}, ${kernels.name})`,
    ...(kernels.inference ? { inference: { ...kernels.inference, native: true } } : {}),
    linear: makeLinear(heap, functions, products),
    crossEntropy: makeCrossEntropy(heap, functions, blasCrossEntropy(heap, functions, blas)),
  };
}

/** @returns the wasm kernels with their products replaced by `products` of operands rounded to bfloat16. */
export function withBf16({ kernels, heap, functions }: WasmKernels, products: Bf16Products): Kernels {
  // Scratch of its own: crossEntropy's logits lie in that of `heap` while products are made of them.
  const scratch = new KernelHeap();
  const rounding = roundingBlas(scratch, functions, products);
  return {
    ...kernels,
    name: `native-bf16 (${products.name}, ${kernels.name})`,
    linear: makeLinear(heap, functions, bf16Linear(scratch, functions, products)),
    crossEntropy: makeCrossEntropy(heap, functions, blasCrossEntropy(heap, functions, rounding)),
  };
}
