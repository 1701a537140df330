/** All builds of the kernels of inference, with why one cannot be tried here. */
import { missingAvx512 } from "../../../../src/engine/kernels/machine/avx512.ts";
import type { KernelVariant } from "../../../../src/engine/kernels/wasm/variants.ts";
import { kernelVariants, variantRuns } from "../../../../src/engine/kernels/wasm/variants.ts";

interface InferenceBuildCase {
  readonly name: string;
  readonly variant: KernelVariant;
  readonly avx512: boolean;
  /** False when it runs here. */
  readonly skip: string | false;
}

export const inferenceBuildCases: readonly InferenceBuildCase[] = [
  ...kernelVariants.map((variant) => ({ name: variant, variant, avx512: false })),
  { name: "avx512", variant: "relaxed256", avx512: true } as const,
].map((build) => ({ ...build, skip: whyNot(build.variant, build.avx512) ?? false }));

function whyNot(variant: KernelVariant, avx512: boolean): string | null {
  if (!variantRuns(variant)) return `this JavaScript engine does not run ${variant}`;
  return avx512 ? missingAvx512() : null;
}
