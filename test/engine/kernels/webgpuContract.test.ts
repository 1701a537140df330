/** Both families of the WebGPU kernels keep the contract of the kernel seam, where there is an adapter. */
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { createWebgpuKernels } from "../../../src/engine/kernels/webgpu/createWebgpuKernels.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { deferredContract } from "./deferredContract.ts";
import { kernelContract } from "./kernelContract.ts";

const missing = await missingGpu();
if (missing === null) {
  await activateTfjs("webgpu");
  kernelContract("webgpu", "tiles", () => createWebgpuKernels({ family: "tiles" }));
  deferredContract("webgpu", () => createWebgpuKernels(), false);
  const lanes = await createWebgpuKernels({ family: "lanes" }).catch((error: Error) => error);
  if (lanes instanceof Error) test("webgpu/lanes keep the contract", { skip: lanes.message });
  else kernelContract("webgpu", "lanes", () => Promise.resolve(lanes));
} else test("the webgpu kernels keep the contract", { skip: missing });
