/**
 * The builds of the kernels and what each needs of the machine. What they compute:
 * - `simd128`: 128-bit vectors, product then sum.
 * - `relaxed`: the same with the machine's fused multiply-add.
 * - `relaxed256`: as `relaxed`, with tiles twice as wide, for V8 to fuse pairs of vectors into 256-bit ones
 *   (its experimental "revectorize" pass). The same operations on each element in the same order: the same bytes.
 */
import { CodedError } from "../../../ops/errors.ts";

/** Fastest first. */
export const kernelVariants = ["relaxed256", "relaxed", "simd128"] as const;
export type KernelVariant = (typeof kernelVariants)[number];

/** Node 24 has V8 13.6; on earlier ones the pass is missing or was not tried. It knows x64 only. */
const leastV8ForRevectorize = 13;

/**
 * The smallest module that uses one instruction: () -> v128, made of `operands` zero vectors (v128.const 0) and
 * the instruction. Layout: WebAssembly core specification, chapter 5.
 */
function moduleUsing(operands: number, opcode: readonly number[]): Uint8Array<ArrayBuffer> {
  const zero = [0xfd, 12, ...new Array<number>(16).fill(0)];
  const body = [0, ...Array.from({ length: operands }, () => zero).flat(), ...opcode, 0x0b];
  const code = [1, body.length, ...body];
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...[1, 5, 1, 0x60, 0, 1, 0x7b], // one type: () -> v128
    ...[3, 2, 1, 0], // one function of it
    ...[10, code.length, ...code],
  ]);
}

const usesAdd = moduleUsing(2, [0xfd, 0xe4, 0x01]); // f32x4.add
const usesRelaxedMadd = moduleUsing(3, [0xfd, 0x85, 0x02]); // f32x4.relaxed_madd

/** @returns whether this JavaScript engine can run that build. */
export function variantRuns(variant: KernelVariant): boolean {
  if (!WebAssembly.validate(variant === "simd128" ? usesAdd : usesRelaxedMadd)) return false;
  return variant !== "relaxed256" || (process.arch === "x64" && parseInt(process.versions.v8) >= leastV8ForRevectorize);
}

/**
 * @param wanted a build to insist on
 * @returns it, or all that run, fastest first
 * @throws backend_unavailable when the engine cannot run it
 */
export function candidateVariants(wanted?: KernelVariant): [KernelVariant, ...KernelVariant[]] {
  const [first, ...rest] = (wanted ? [wanted] : kernelVariants).filter(variantRuns);
  if (first) return [first, ...rest];
  const missing = {
    relaxed256: "256-bit vectors (Node 24 or later on x64 has them)",
    relaxed: "relaxed SIMD (Node 22 or later has it)",
    simd128: "WebAssembly SIMD",
  };
  const message = `kernels wasm-${wanted ?? "simd128"}: this JavaScript engine lacks ${missing[wanted ?? "simd128"]}`;
  throw new CodedError("backend_unavailable", message);
}
