/**
 * The kernels of the `wasm` backend: C compiled to WebAssembly SIMD, working in place on the heap of tfjs, each
 * operation fused with its gradient.
 *
 * What holds for all of them:
 * - Same inputs, same bytes, on every run: all sums have a fixed order, and nothing is chosen by timing.
 * - A row does not know its neighbours: the bytes of a row of `linear`, and of a query of `causalAttention`, do
 *   not depend on how many others are computed with it (decoded alone, in a prefill, in a batch).
 * - NaN and infinity are carried as by plain tfjs, and a query never multiplies a key or value it may not see.
 *   Any shape is taken.
 * - Beyond its outputs an operation uses one scratch block, kept and reused.
 *
 * `simd128` gives other bytes than the two relaxed builds (product and sum rounded apart or not). Between those
 * it is features alone that decide, so the choice is the same after every restart on one machine; a training
 * resumed on another asks for the build it began with, `variant`. Between the relaxed builds a short trial
 * decides, which may, because their bytes are the same.
 */
import type { Kernels } from "../kernels.ts";
import { makeCausalAttention } from "./causalAttention.ts";
import { chooseKernels } from "./chooseKernels.ts";
import { makeCrossEntropy, wasmCrossEntropy } from "./crossEntropy.ts";
import { makeEmbedding } from "./embedding.ts";
import { KernelHeap } from "./heap.ts";
import { makeLinear, wasmProducts } from "./linear.ts";
import type { KernelFunctions } from "./module.ts";
import { makeAdamw, makeAddInPlace, makeSumOfSquares } from "./optimizer.ts";
import { makeRmsNorm } from "./rmsNorm.ts";
import { makeRope } from "./rope.ts";
import { makeSwiglu } from "./swiglu.ts";
import { makeWritePositions } from "./writePositions.ts";
import type { KernelVariant } from "./variants.ts";

export interface WasmKernelOptions {
  /** The build to use; without it the fastest that the JavaScript engine runs. */
  readonly variant?: KernelVariant;
}

/** The kernels with what they are made of, for those who replace some of them. */
export interface WasmKernels {
  readonly kernels: Kernels;
  readonly heap: KernelHeap;
  readonly functions: KernelFunctions;
}

/**
 * Wants the `wasm` backend of tfjs to be set up; does not change which backend is active.
 * @returns kernels named `wasm-relaxed256`, `wasm-relaxed` or `wasm-simd128`
 * @throws backend_unavailable when the engine cannot run the build, or the wasm backend is not set up
 */
export async function createWasmKernels(options: WasmKernelOptions = {}): Promise<Kernels> {
  return (await openWasmKernels(options)).kernels;
}

/** As `createWasmKernels`, open to be built upon. */
export async function openWasmKernels(options: WasmKernelOptions = {}): Promise<WasmKernels> {
  const heap = new KernelHeap();
  const [variant, c] = await chooseKernels(heap, options.variant);
  const kernels = { ...kernelsOn(heap, c, `wasm-${variant}`), inference: { variant, native: false } };
  return { kernels, heap, functions: c };
}

/** @returns the kernels that call `c`, which may be wrapped: that is how the bench measures their shares. */
export function kernelsOn(heap: KernelHeap, c: KernelFunctions, name: string): Kernels {
  const products = wasmProducts(heap, c);
  return {
    name,
    linear: makeLinear(heap, c, products),
    embedding: makeEmbedding(heap, c),
    rmsNorm: makeRmsNorm(heap, c),
    rope: makeRope(heap, c),
    causalAttention: makeCausalAttention(heap, c),
    swiglu: makeSwiglu(heap, c),
    crossEntropy: makeCrossEntropy(heap, c, wasmCrossEntropy(heap, c)),
    writePositions: makeWritePositions(heap),
    addInPlace: makeAddInPlace(heap, c),
    adamw: makeAdamw(heap, c),
    sumOfSquares: makeSumOfSquares(heap, c),
  };
}
