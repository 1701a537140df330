/**
 * Which kernels a tfjs backend gets: the fastest of its own that load, else the reference. The choice is made
 * by an explicit call with explicit settings; nothing is compiled or loaded when this file is imported.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Kernels } from "./kernels.ts";
import { referenceKernels } from "./reference.ts";
import type { KernelVariant } from "./wasm/variants.ts";

export { referenceKernels };

/** `auto`: the fastest that loads without a library of the machine. The others are loaded or refused. */
export type KernelChoice =
  "auto" | "reference" | "wasm-simd" | "native" | "native-bf16" | "webgpu" | "webgpu-f16" | "webgpu-matrices-f16";

export interface LoadedKernels {
  readonly kernels: Kernels;
  /** Why faster ones were not taken, when `auto` had to fall back; null when there was no need. */
  readonly fallbackReason: string | null;
}

/** A build of the wasm kernels to insist on; null or absent for the fastest that runs. */
type Variant = KernelVariant | null | undefined;
type Loader = (variant: Variant) => Promise<Kernels>;

/** Faster kernels by tfjs backend, the one that `auto` takes first. Modules are imported when they are asked for. */
const fasterKernels: Readonly<Record<string, readonly { choice: KernelChoice; load: Loader }[]>> = {
  wasm: [
    {
      choice: "wasm-simd",
      load: async (variant) =>
        (await import("./wasm/createWasmKernels.ts")).createWasmKernels(variant ? { variant } : {}),
    },
    {
      choice: "native",
      load: async (variant) =>
        (await import("./native/createNativeKernels.ts")).createNativeKernels(variant ? { variant } : {}),
    },
    {
      choice: "native-bf16",
      load: async (variant) =>
        (await import("./native/createNativeKernels.ts")).createBf16Kernels(variant ? { variant } : {}),
    },
  ],
  webgpu: [
    {
      choice: "webgpu",
      load: async () => (await import("./webgpu/createWebgpuKernels.ts")).createWebgpuKernels(),
    },
    {
      choice: "webgpu-f16",
      load: async () => (await import("./webgpu/createWebgpuKernels.ts")).createWebgpuKernels({ f16: true }),
    },
    {
      choice: "webgpu-matrices-f16",
      load: async () =>
        (await import("./webgpu/createWebgpuKernels.ts")).createWebgpuKernels({ family: "matrices", f16: true }),
    },
  ],
};

/**
 * Kernels for the tfjs backend that is active now.
 * @throws backend_unavailable when `choice` or `variant` names kernels that this backend has not, or that do not load
 */
export async function kernelsFor(
  backend: string,
  choice: KernelChoice = "auto",
  variant?: Variant,
): Promise<LoadedKernels> {
  const own = (Object.hasOwn(fasterKernels, backend) ? fasterKernels[backend] : undefined) ?? [];
  const found = choice === "auto" ? own[0] : own.find((entry) => entry.choice === choice);
  if (choice === "reference" || (choice === "auto" && !found)) {
    return { kernels: referenceKernels, fallbackReason: null };
  }
  if (!found) throw new CodedError("backend_unavailable", `kernels ${choice} do not run on the ${backend} backend`);
  try {
    return { kernels: await found.load(variant), fallbackReason: null };
  } catch (cause) {
    const reason = `kernels ${found.choice} did not load: ${cause instanceof Error ? cause.message : String(cause)}`;
    if (choice !== "auto" || variant) throw new CodedError("backend_unavailable", reason, { cause });
    return { kernels: referenceKernels, fallbackReason: reason };
  }
}
