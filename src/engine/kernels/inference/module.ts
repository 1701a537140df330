/**
 * The kernels of inference as functions, compiled from `c/` here and shared parts of `../wasm/c`: builds of the same
 * variants as training's, on a memory that threads share. Arguments are numbers: sizes, and addresses in bytes; what
 * each does and needs is said in the C file.
 */
import { readFile } from "node:fs/promises";
import { compileOptimized } from "../wasm/compile.ts";
import type { KernelVariant } from "../wasm/variants.ts";
import { loadAvx512 } from "./avx512.ts";

type Procedure = (...args: number[]) => void;
type Reckoner = (...args: number[]) => number;

export interface InferenceFunctions {
  readonly panel_width: Reckoner;
  readonly panel_most_rows: Reckoner;
  readonly panel_scratch_floats: Reckoner;
  readonly panel_turn: Procedure;
  readonly panel_product: Procedure;
  readonly panel_unpack: Procedure;
  readonly panel_pack: Procedure;
  readonly panel_pack_bf16: Procedure;
  readonly panel_row: Procedure;
  readonly page_positions: Reckoner;
  readonly paged_attention_scratch_floats: Reckoner;
  readonly paged_attention: Procedure;
  readonly row_blocks: Procedure;
  readonly rms_norm_forward: Procedure;
  readonly swiglu_rows: Procedure;
  readonly add_rows: Procedure;
}

/**
 * @param avx512 take what there is of it from the build for AVX-512, which goes with the variant `relaxed256`
 * @returns the functions of one build on `memory`, which is shared
 * @throws backend_unavailable when that build does not load here
 */
export async function loadInferenceKernels(
  variant: KernelVariant,
  memory: WebAssembly.Memory,
  avx512 = false,
): Promise<InferenceFunctions> {
  const bytes = new Uint8Array(await readFile(new URL(`./inference.${variant}.wasm`, import.meta.url)));
  const module = compileOptimized(bytes, variant === "relaxed256" ? ["experimental-wasm-revectorize"] : []);
  const functions = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as InferenceFunctions;
  return avx512 ? { ...functions, ...(await loadAvx512(memory)) } : functions;
}
