/**
 * The compiled kernels as functions. All arguments are numbers: sizes, float32 scalars, and addresses in bytes
 * on the tfjs heap (0 for none). What each does and needs is said in the C file of its name, under `c/`.
 */
import { readFile } from "node:fs/promises";
import { compileOptimized } from "./compile.ts";
import type { KernelVariant } from "./variants.ts";

type Procedure = (...args: number[]) => void;
type Reckoner = (...args: number[]) => number;

export interface KernelFunctions {
  readonly gemm_scratch_floats: Reckoner;
  readonly linear_scratch_floats: Reckoner;
  readonly linear_forward: Procedure;
  readonly linear_grad_x: Procedure;
  readonly linear_grad_w: Procedure;
  readonly linear_grad_bias: Procedure;
  readonly embedding_gather: Reckoner;
  readonly embedding_scatter: Procedure;
  readonly rms_norm_forward: Procedure;
  readonly rms_norm_backward: Procedure;
  readonly rope_rotate: Procedure;
  readonly attention_forward_scratch_floats: Reckoner;
  readonly attention_forward: Procedure;
  readonly attention_decode: Procedure;
  readonly attention_backward_scratch_floats: Reckoner;
  readonly attention_backward: Procedure;
  readonly swiglu_forward: Procedure;
  readonly swiglu_backward: Procedure;
  readonly cross_entropy_scratch_floats: Reckoner;
  readonly cross_entropy_chunk_rows: Reckoner;
  readonly cross_entropy_check: Reckoner;
  readonly cross_entropy_rows: Reckoner;
  readonly cross_entropy: Reckoner;
  readonly scale_in_place: Procedure;
  readonly add_in_place: Procedure;
  readonly adamw_step: Procedure;
  readonly to_bf16: Procedure;
  readonly sum_of_squares: Reckoner;
}

/**
 * Compiled at once by the optimizing compiler, so that the first step is as fast as the last.
 * @returns the functions of one build, working on `memory`
 */
export async function loadKernels(variant: KernelVariant, memory: WebAssembly.Memory): Promise<KernelFunctions> {
  const bytes = new Uint8Array(await readFile(new URL(`./kernels.${variant}.wasm`, import.meta.url)));
  const module = compileOptimized(bytes, variant === "relaxed256" ? ["experimental-wasm-revectorize"] : []);
  return new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as KernelFunctions;
}
