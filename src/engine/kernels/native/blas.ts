/**
 * The BLAS of this machine through koffi, called in place: matrices are given by their addresses on a WebAssembly
 * memory, nothing is copied. OpenBLAS (Debian: libopenblas0-pthread) or, on macOS, Accelerate, which is part of it.
 * Both koffi and the library are optional: where one is missing the error says which, and where it can be had.
 *
 * One thread, always: the sum of a product over K is then taken in one order, so the same shapes and inputs give
 * the same bytes on the same machine and library. More processors are used by computing several micro-batches.
 *
 * cblas: Basic Linear Algebra Subprograms Technical Forum Standard, 2001, appendix B.
 */
import type { LibraryHandle } from "koffi";
import { openLibrary } from "./koffi.ts";
import { linuxProcessor } from "./processor.ts";

/** A row-major matrix: address of its first byte on the memory, and whether it is used transposed. */
export interface Operand {
  readonly at: number;
  readonly transposed: boolean;
  /** Floats from one of its rows to the next; without gaps unless given. */
  readonly stride?: number;
}

export interface Blas {
  /** Library, version and the processor it was tuned for, e.g. `OpenBLAS 0.3.21 SkylakeX`. */
  readonly name: string;
  /**
   * C[m,n] = op(A)[m,k] op(B)[k,n], added to what is there when `accumulate`; all float32, C
   * without gaps between its rows unless `strideC` says so. What C held is not read otherwise.
   */
  multiply(
    ...args: [m: number, n: number, k: number, a: Operand, b: Operand, c: number, accumulate: boolean, strideC?: number]
  ): void;
}

type Cblas = (...values: (number | Uint8Array)[]) => void;

const rowMajor = 101;
const asIs = 111;
const transposed = 112;

/** Where the dynamic linker, or the system, has it; the first that loads is taken. */
const libraryFiles: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: ["libopenblas.so.0", "libopenblas.so"],
  darwin: [
    "/System/Library/Frameworks/Accelerate.framework/Accelerate",
    "/opt/homebrew/opt/openblas/lib/libopenblas.dylib",
  ],
  win32: ["libopenblas.dll"],
};

/**
 * @param memory that the addresses of `multiply` are of
 * @param files library files to try in turn, instead of this platform's usual ones
 * @throws backend_unavailable naming what is missing and where it can be had
 */
export async function openBlas(
  memory: WebAssembly.Memory,
  files: readonly string[] = libraryFiles[process.platform] ?? [],
): Promise<Blas> {
  const { file, handle } = await openLibrary({
    title: "BLAS library",
    files,
    source: "Debian and Ubuntu have it as libopenblas0-pthread, Homebrew as openblas",
    environment: environment(),
  });
  const sgemm = handle.func(
    "void cblas_sgemm(int, int, int, int, int, int, float, void *, int, void *, int, float, void *, int)",
  ) as Cblas;
  return {
    name: describe(file, handle),
    multiply(m, n, k, a, b, c, accumulate, strideC = n) {
      if (m === 0 || n === 0) return;
      // Views are made anew: the memory may have grown since. A column more or less does not matter to BLAS.
      const view = (at: number): Uint8Array => new Uint8Array(memory.buffer, at);
      const orders = [a, b].map((operand) => (operand.transposed ? transposed : asIs)) as [number, number];
      const [lda, ldb] = [a.stride ?? (a.transposed ? m : k), b.stride ?? (b.transposed ? k : n)];
      const beta = accumulate ? 1 : 0;
      sgemm(rowMajor, ...orders, m, n, k, 1, view(a.at), lda, view(b.at), ldb, beta, view(c), strideC);
    },
  };
}

/**
 * What OpenBLAS reads when it is loaded: no pool of threads, and on AMD processors with AVX-512 the kernels for it,
 * because releases before 0.3.24 do not know those processors and take AVX2.
 */
function environment(): Record<string, string> {
  const coreType = isAmdWithAvx512() ? { OPENBLAS_CORETYPE: "SKYLAKEX" } : {};
  return { OPENBLAS_NUM_THREADS: "1", VECLIB_MAXIMUM_THREADS: "1", ...coreType };
}

function isAmdWithAvx512(): boolean {
  const processor = linuxProcessor();
  const needed = ["avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"];
  return processor?.vendor === "AuthenticAMD" && needed.every((feature) => processor.features.has(feature));
}

function describe(file: string, handle: LibraryHandle): string {
  if (file.includes("Accelerate")) return "Accelerate";
  handle.func("void openblas_set_num_threads(int)")(1);
  const config = handle.func("const char *openblas_get_config()")() as string;
  const core = handle.func("const char *openblas_get_corename()")() as string;
  return `${config.split(" ").slice(0, 2).join(" ")} ${core}`;
}
