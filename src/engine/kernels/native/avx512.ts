/**
 * The kernels of training that cost the time beside the products, built from the C sources of `../wasm/c` for the
 * machine itself: vectors twice as wide as WebAssembly's widest, tiles that fill them. Called in place on the heap of
 * tfjs through koffi. The operations on each number are those of the build `relaxed256`, so are the bytes; a trial
 * (`trial.ts`) says whether they are.
 */
import { fileURLToPath } from "node:url";
import { openMachineLibrary } from "../machine/avx512.ts";
import type { MachineLibrary } from "../machine/avx512.ts";
import type { KernelFunctions } from "../wasm/module.ts";

/** Kernel, name in the library, result, and one letter an argument, as `MachineLibrary.bind` has them. */
const bindings = [
  ["attention_forward_scratch_floats", "attentionForwardScratchFloats", "int", "iiii"],
  ["attention_forward", "attentionForward", "void", "iiiiiiipppppp"],
  ["attention_backward_scratch_floats", "attentionBackwardScratchFloats", "int", "iiii"],
  ["attention_backward", "attentionBackward", "void", "iiiiipppppppppp"],
  ["swiglu_forward", "swigluForward", "void", "ippp"],
  ["swiglu_backward", "swigluBackward", "void", "ippppp"],
  ["cross_entropy_rows", "crossEntropyRows", "double", "iippi"],
  ["scale_in_place", "scaleInPlace", "void", "ipf"],
  ["rms_norm_forward", "rmsNormForward", "void", "iifppp"],
  ["rms_norm_backward", "rmsNormBackward", "void", "iifpppppp"],
  ["rope_rotate", "ropeRotate", "void", "iiiipppfp"],
  ["embedding_scatter", "embeddingScatter", "void", "iiippp"],
  ["add_in_place", "addInPlace", "void", "ipp"],
  ["adamw_step", "adamwStep", "void", "ippppfffffffff"],
  ["sum_of_squares", "sumOfSquares", "double", "ip"],
  ["to_bf16", "toBf16", "void", "ipp"],
] as const satisfies readonly (readonly [keyof KernelFunctions, string, "void" | "int" | "double", string])[];

/** Those that there are. */
export type MachineFunctions = Pick<KernelFunctions, (typeof bindings)[number][0]>;

const libraryFile = fileURLToPath(new URL("./training.avx512.so", import.meta.url));

/**
 * @param memory whose addresses the functions take; it may grow
 * @param file the library, another than the one of this package in tests alone
 * @throws backend_unavailable when the processor, koffi or the library is not there or does not load
 */
export async function loadAvx512(memory: WebAssembly.Memory, file = libraryFile): Promise<MachineFunctions> {
  const library = await openMachineLibrary(file);
  const base = followBase(memory, library);
  const entries = bindings.map(([kernel, name, result, of]) => {
    const call = library.bind(result, name, of);
    const pointers = [...of].flatMap((letter, i) => (letter === "p" ? [i] : []));
    return [kernel, (...values: number[]) => callAt(call, base(), pointers, values)];
  });
  return Object.fromEntries(entries) as MachineFunctions;
}

/** Address 0 stands for nothing, as in C. */
function callAt(call: (...args: number[]) => number, base: number, pointers: readonly number[], values: number[]) {
  for (const i of pointers) if (values[i] !== 0) values[i]! += base;
  return call(...values);
}

/** @returns where the memory lies now: asked anew when it has grown, for which it gets another buffer. */
function followBase(memory: WebAssembly.Memory, library: MachineLibrary): () => number {
  let [buffer, base] = [memory.buffer, library.addressOf(memory)];
  return () => {
    if (memory.buffer !== buffer) [buffer, base] = [memory.buffer, library.addressOf(memory)];
    return base;
  };
}
