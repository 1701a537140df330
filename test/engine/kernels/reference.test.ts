/** The reference kernels keep the contract on both tfjs backends. */
import { referenceKernels } from "../../../src/engine/kernels/reference.ts";
import { kernelContract } from "./kernelContract.ts";

kernelContract("cpu", "reference", () => Promise.resolve(referenceKernels));
kernelContract("wasm", "reference", () => Promise.resolve(referenceKernels));
