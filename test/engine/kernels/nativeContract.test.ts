/** The native kernels keep the contract of the kernel seam, where the machine has a BLAS. */
import { test } from "node:test";
import { createNativeKernels } from "../../../src/engine/kernels/native/createNativeKernels.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { kernelContract } from "./kernelContract.ts";

const missing = await missingBlas();
if (missing === null) kernelContract("wasm", "native", () => createNativeKernels());
else test("the native kernels keep the contract", { skip: missing });
