/**
 * Libraries of kernels that are built for the machine itself, x86-64 with AVX-512, from the same C sources as those in
 * WebAssembly: whether they run here, and how they are opened. They are called in place, through koffi, on addresses of
 * the process. `wasm_simd128.h` beside this stands in for WebAssembly's intrinsics when they are built.
 */
import { CodedError } from "../../../ops/errors.ts";
import { openLibrary } from "../native/koffi.ts";
import { linuxProcessor } from "../native/processor.ts";

export interface MachineLibrary {
  /** @returns where the memory lies in the process; it may lie elsewhere after it has grown, unless it is shared. */
  addressOf(memory: WebAssembly.Memory): number;
  /** @param of one letter an argument: an int, a float, a double, or a pointer, given as a number */
  bind(result: "void" | "int" | "double", name: string, of: string): (...args: number[]) => number;
}

/** Of x86-64-v4, for which the libraries are built; what Linux calls them. */
const neededFeatures = ["fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];
const typeOf: Readonly<Record<string, string>> = { i: "int", f: "float", d: "double", p: "uintptr_t" };

/** @returns what `openMachineLibrary` misses in the system or the processor, null for nothing. */
export function missingAvx512(): string | null {
  const processor = linuxProcessor();
  if (processor === null) return "built for Linux on x64 alone";
  const missing = neededFeatures.filter((feature) => !processor.features.has(feature));
  return missing.length === 0 ? null : `the processor lacks ${missing.join(", ")}`;
}

/**
 * @param file a library of this package, or another in tests
 * @throws backend_unavailable when the processor, koffi or the library is not there or does not load
 */
export async function openMachineLibrary(file: string): Promise<MachineLibrary> {
  const missing = missingAvx512();
  if (missing !== null) throw new CodedError("backend_unavailable", `kernels for AVX-512: ${missing}`);
  const { handle } = await openLibrary({
    ...{ title: "library of kernels for AVX-512", files: [file], environment: {} },
    source: "it comes with this package",
  });
  const addressOf = handle.func("uintptr_t addressOf(void *)");
  return {
    addressOf: (memory) => Number(addressOf(new Uint8Array(memory.buffer))),
    bind(result, name, of) {
      const types = [...of].map((letter) => typeOf[letter]);
      return handle.func(`${result} ${name}(${types.join(", ")})`) as (...args: number[]) => number;
    },
  };
}

/** @returns what was opened, or null where it is not there: then there are the kernels in WebAssembly */
export async function unlessMissing<T>(opening: Promise<T>): Promise<T | null> {
  try {
    return await opening;
  } catch (error) {
    if (error instanceof CodedError && error.code === "backend_unavailable") return null;
    throw error;
  }
}
