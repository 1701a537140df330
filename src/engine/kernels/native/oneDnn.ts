/**
 * The matrix product of oneDNN (Debian: libdnnl2) with bfloat16 operands and float32 sums, in place on a WebAssembly
 * memory. It is used for training with `precision: "bf16"` and nothing else; library and processor instructions
 * (AVX512_BF16 or AMX, on Intel and AMD alike) are both optional, and the error says which one is missing.
 *
 * `dnnl_gemm_bf16bf16f32` is exported by every 2.x and 3.x release beside `dnnl_sgemm`, with the same row-major
 * arguments, but stands in no public header; the refusal covers a release without it. One thread, always, as in
 * `blas.ts`.
 */
import { CodedError } from "../../../ops/errors.ts";
import type { Blas } from "./blas.ts";
import { openLibrary } from "./koffi.ts";

/** The interface of `Blas`, but A and B hold bfloat16, two bytes an element; C and the sums are float32. */
export type Bf16Products = Blas;

type Gemm = (...values: (number | Uint8Array)[]) => number;

const libraryFiles: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: ["libdnnl.so.2", "libdnnl.so.3", "libdnnl.so"],
  win32: ["dnnl.dll"],
  darwin: ["libdnnl.2.dylib", "libdnnl.3.dylib"],
};

/** Bits of `dnnl_cpu_isa_t` that AVX-512 with bfloat16 has in releases 2.x and 3.x, and that no lesser set has. */
const bf16Isa = 0xa0;
/** As above, of AMX. */
const amxIsa = 0x300;
/** `dnnl_success` */
const success = 0;

/**
 * @param memory that the addresses of `multiply` are of
 * @param files library files to try in turn, instead of this platform's usual ones
 * @throws backend_unavailable naming what is missing
 */
export async function openOneDnn(
  memory: WebAssembly.Memory,
  files: readonly string[] = libraryFiles[process.platform] ?? [],
): Promise<Bf16Products> {
  const { handle, integersAt } = await openLibrary({
    title: "oneDNN library",
    files,
    source: "Debian has it as libdnnl2, Ubuntu as libdnnl3",
    environment: { OMP_NUM_THREADS: "1" },
  });
  const isa = handle.func("int dnnl_get_effective_cpu_isa()")() as number;
  if ((isa & bf16Isa) !== bf16Isa) {
    throw new CodedError("backend_unavailable", "this processor has no bfloat16 arithmetic (AVX512_BF16 or AMX)");
  }
  // `dnnl_version_t` begins with three ints.
  const version = integersAt(handle.func("void *dnnl_version()")(), 3).join(".");
  const types = "char, char, int64, int64, int64, float, void *, int64, void *, int64, float, void *, int64";
  const gemm = handle.func(`int dnnl_gemm_bf16bf16f32(${types})`) as Gemm;
  const [asIs, transposed] = ["N", "T"].map((letter) => letter.charCodeAt(0)) as [number, number];
  return {
    name: `oneDNN ${version} ${(isa & amxIsa) === amxIsa ? "AMX" : "AVX512_BF16"}`,
    multiply(m, n, k, a, b, c, accumulate, strideC = n) {
      if (m === 0 || n === 0) return;
      const view = (at: number): Uint8Array => new Uint8Array(memory.buffer, at);
      const orders = [a, b].map((operand) => (operand.transposed ? transposed : asIs)) as [number, number];
      const [lda, ldb] = [a.stride ?? (a.transposed ? m : k), b.stride ?? (b.transposed ? k : n)];
      const beta = accumulate ? 1 : 0;
      const status = gemm(...orders, m, n, k, 1, view(a.at), lda, view(b.at), ldb, beta, view(c), strideC);
      if (status !== success) throw new CodedError("internal", `oneDNN's product ${m} x ${n} x ${k} gave ${status}`);
    },
  };
}
