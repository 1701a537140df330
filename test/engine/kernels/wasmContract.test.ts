/** Every build of the wasm kernels keeps the contract of the kernel seam. */
import { createWasmKernels } from "../../../src/engine/kernels/wasm/createWasmKernels.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import { kernelContract } from "./kernelContract.ts";

for (const variant of kernelVariants.filter(variantRuns)) {
  kernelContract("wasm", variant, () => createWasmKernels({ variant }));
}
