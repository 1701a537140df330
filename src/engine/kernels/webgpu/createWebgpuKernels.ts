/**
 * The kernels of the `webgpu` backend: WGSL programs on the buffers of tfjs, each operation fused with its gradient.
 *
 * What holds for all of them:
 * - Same inputs, same bytes, on every run on one device with the same family of products: all sums have a fixed order,
 *   nothing is atomic, and which programs run follows from the family and the shapes.
 * - Nothing waits for the device but `sumOfSquares`, which reads back a few numbers for each tensor.
 * - NaN and infinity are carried as far as the device does: WGSL lets a driver assume that there are none.
 */
import { CodedError } from "../../../ops/errors.ts";
import type { Kernels } from "../kernels.ts";
import { makeCausalAttention } from "./causalAttention.ts";
import { makeCrossEntropy } from "./crossEntropy.ts";
import { makeDeferred } from "./deferred.ts";
import { makeEmbedding } from "./embedding.ts";
import { Gpu } from "./gpu.ts";
import { makeLinear } from "./linear.ts";
import { makeAdamw, makeSumOfSquares } from "./optimizer.ts";
import { familyOf, makeMultiply, type ProductFamily } from "./products.ts";
import { deviceMatrices, type MatrixOps } from "./matrixOps.ts";
import { makeRmsNorm } from "./rmsNorm.ts";
import { makeRope } from "./rope.ts";
import { makeSwiglu } from "./swiglu.ts";
import { makeWritePositions } from "./writePositions.ts";

export interface WebgpuKernelOptions {
  /** Programs to insist on; those made for the device unless given. */
  readonly family?: ProductFamily;
  /** Operands of products are rounded to half precision, and updates scale the loss. */
  readonly f16?: boolean;
  /** What the family `matrices` multiplies with; the device's own operations unless given. */
  readonly matrices?: MatrixOps;
}

/**
 * Wants the `webgpu` backend of tfjs to be set up; does not change which backend is active.
 * @throws backend_unavailable when it is not, or when the device lacks what `family` needs
 */
export async function createWebgpuKernels(options: WebgpuKernelOptions = {}): Promise<Kernels> {
  const gpu = new Gpu();
  const own = familyOf(gpu.device);
  const family = options.family ?? own;
  if (family === "lanes" && own !== "lanes") {
    throw new CodedError("backend_unavailable", "kernels webgpu-lanes want subgroups of exactly 8");
  }
  const { f16 = false } = options;
  if (f16 && !gpu.device.features.has("shader-f16")) {
    const { device, description } = gpu.device.adapterInfo;
    const reason = `${device || description} computes with no 16-bit floats (no shader-f16)`;
    throw new CodedError("backend_unavailable", `precision mixed_f16: ${reason}`);
  }
  const matrices =
    family === "matrices" ? (options.matrices ?? deviceMatrices(gpu.device, gpu.matrixConfigs)) : undefined;
  const multiply = makeMultiply(gpu, { family, f16, ...(matrices ? { matrices } : {}) });
  return {
    name: `webgpu-${family}${f16 ? "-f16" : ""}`,
    linear: makeLinear(gpu, multiply),
    embedding: makeEmbedding(gpu),
    rmsNorm: makeRmsNorm(gpu),
    rope: makeRope(gpu),
    causalAttention: makeCausalAttention(gpu, family === "matrices" ? own : family),
    swiglu: makeSwiglu(gpu),
    crossEntropy: makeCrossEntropy(gpu, multiply, f16),
    writePositions: makeWritePositions(gpu),
    adamw: makeAdamw(gpu),
    sumOfSquares: makeSumOfSquares(gpu),
    deferred: makeDeferred(gpu, f16),
  };
}
