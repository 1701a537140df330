/**
 * Which kernels a tfjs backend gets: the fastest of its own that load, else the reference. The choice is made
 * by an explicit call with explicit settings; nothing is compiled or loaded when this file is imported.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Kernels } from "./kernels.ts";
import { referenceKernels } from "./reference.ts";

export { referenceKernels };

/** `auto`: the fastest that loads. The others are for tests and for finding out what is wrong. */
export type KernelChoice = "auto" | "reference" | "wasm-simd";

export interface LoadedKernels {
  readonly kernels: Kernels;
  /** Why faster ones were not taken, when `auto` had to fall back; null when there was no need. */
  readonly fallbackReason: string | null;
}

/** Faster kernels by tfjs backend. The module is imported when it is asked for. */
const fasterKernels: Readonly<Record<string, { choice: KernelChoice; load: () => Promise<Kernels> }>> = {
  wasm: {
    choice: "wasm-simd",
    load: async () => (await import("./wasm/createWasmKernels.ts")).createWasmKernels(),
  },
};

/**
 * Kernels for the tfjs backend that is active now.
 * @throws backend_unavailable when `choice` names kernels that this backend has not, or that do not load
 */
export async function kernelsFor(backend: string, choice: KernelChoice = "auto"): Promise<LoadedKernels> {
  const faster = Object.hasOwn(fasterKernels, backend) ? fasterKernels[backend] : undefined;
  if (choice === "reference" || (choice === "auto" && !faster)) {
    return { kernels: referenceKernels, fallbackReason: null };
  }
  if (!faster || (choice !== "auto" && choice !== faster.choice)) {
    throw new CodedError("backend_unavailable", `kernels ${choice} do not run on the ${backend} backend`);
  }
  try {
    return { kernels: await faster.load(), fallbackReason: null };
  } catch (cause) {
    const reason = `kernels ${faster.choice} did not load: ${cause instanceof Error ? cause.message : String(cause)}`;
    if (choice !== "auto") throw new CodedError("backend_unavailable", reason, { cause });
    return { kernels: referenceKernels, fallbackReason: reason };
  }
}
