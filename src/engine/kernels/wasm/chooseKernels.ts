/**
 * Which build of the wasm kernels is loaded: the one asked for, else the fastest that runs, where between the two
 * relaxed builds, whose bytes are the same, a short trial on this machine decides.
 */
import type { KernelFunctions } from "./module.ts";
import { loadKernels } from "./module.ts";
import type { TrialSpace } from "./trial.ts";
import { isFaithfulAndFaster } from "./trial.ts";
import { candidateVariants } from "./variants.ts";
import type { KernelVariant } from "./variants.ts";

/** @throws backend_unavailable when the engine cannot run the build */
export async function chooseKernels(
  space: TrialSpace,
  wanted?: KernelVariant,
): Promise<[KernelVariant, KernelFunctions]> {
  const [first, second] = candidateVariants(wanted);
  const fast = await loadKernels(first, space.memory);
  if (first !== "relaxed256" || second !== "relaxed") return [first, fast];
  const plain = await loadKernels(second, space.memory);
  return isFaithfulAndFaster(space, fast, plain) ? [first, fast] : [second, plain];
}
