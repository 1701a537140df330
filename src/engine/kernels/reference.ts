/** The reference kernels: plain tfjs ops, right on every tfjs backend; on `cpu` they are the truth. */
import { adamw } from "./adamw/reference.ts";
import { causalAttention } from "./causalAttention/reference.ts";
import { crossEntropy } from "./crossEntropy/reference.ts";
import { embedding } from "./embedding/reference.ts";
import type { Kernels } from "./kernels.ts";
import { linear } from "./linear/reference.ts";
import { rmsNorm } from "./rmsNorm/reference.ts";
import { rope } from "./rope/reference.ts";
import { sumOfSquares } from "./sumOfSquares/reference.ts";
import { swiglu } from "./swiglu/reference.ts";

export const referenceKernels: Kernels = {
  name: "reference",
  linear,
  embedding,
  rmsNorm,
  rope,
  causalAttention,
  swiglu,
  crossEntropy,
  adamw,
  sumOfSquares,
};
