/** Both families of the WebGPU kernels keep the contract of the kernel seam, where there is an adapter. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { createWebgpuKernels } from "../../../src/engine/kernels/webgpu/createWebgpuKernels.ts";
import type { ProductFamily } from "../../../src/engine/kernels/webgpu/products.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { deferredContract } from "./deferredContract.ts";
import { kernelContract, sample } from "./kernelContract.ts";

const missing = await missingGpu();
// A half keeps 11 bits: an operand is off by 2^-12 of itself at most, a product of two by 2^-11; sums of many of either
// sign by less. Twice that, and twice again for gradients, which have been through two products.
const halfTolerances = { value: 2 ** -10, gradient: 2 ** -9 };
/** Operations with a product in them. */
const products = /^(linear|crossEntropy)/;

/** The contract of one family, and that of its products in half precision. */
async function familyContract(family: ProductFamily): Promise<void> {
  const kernels = await createWebgpuKernels({ family }).catch((error: Error) => error);
  if (kernels instanceof Error) {
    test(`webgpu/${family} keep the contract`, { skip: kernels.message });
    return;
  }
  kernelContract("webgpu", family, () => Promise.resolve(kernels));
  const half = await createWebgpuKernels({ family, f16: true }).catch((error: Error) => error);
  if (half instanceof Error) {
    test(`webgpu/${family}-f16 keep the contract`, { skip: half.message });
    return;
  }
  kernelContract("webgpu", `${family}-f16`, () => Promise.resolve(half), halfTolerances, products);
  overflowContract(`webgpu/${family}-f16`, half);
}

/** What is too large for half precision must not come out of a product as a number: it is how an overflow is noticed. */
function overflowContract(title: string, kernels: Kernels): void {
  test(`${title}: an operand that half precision cannot hold makes the result not finite, in every product`, async () => {
    for (const rows of [3, 37]) {
      for (const large of [65_505, -7e4, 3e38]) {
        const spoiled = (shape: [number, number]): tf.Tensor2D => {
          const values = Float32Array.from(sample(shape[0] * shape[1], 5));
          values[shape[1] + 1] = large;
          return tf.tensor2d(values, shape);
        };
        const plain = (shape: [number, number]): tf.Tensor2D => tf.ones(shape);
        const compute = (x: tf.Tensor, w: tf.Tensor): tf.Tensor => kernels.linear(x as tf.Tensor2D, w as tf.Tensor2D);
        const [x, w, dy]: [number, number][] = [[rows, 20], [24, 20], [rows, 24]]; // prettier-ignore
        for (const [a, b, upstream, hit] of [
          [spoiled(x!), plain(w!), plain(dy!), [true, false, true]],
          [plain(x!), spoiled(w!), plain(dy!), [true, true, false]],
          [plain(x!), plain(w!), spoiled(dy!), [false, true, true]],
        ] as const) {
          const { value, grads } = tf.tidy(() => tf.valueAndGrads(compute)([a, b], upstream));
          for (const [i, tensor] of [value, ...grads].entries()) {
            assert.equal((await tensor.data()).every(Number.isFinite), !hit[i], `${rows} rows, ${large}, result ${i}`);
          }
          tf.dispose([a, b, upstream, value, ...grads]);
        }
      }
    }
  });
}

if (missing === null) {
  await activateTfjs("webgpu");
  await familyContract("tiles");
  await familyContract("lanes");
  deferredContract("webgpu", () => createWebgpuKernels(), false);
  const half = await createWebgpuKernels({ f16: true }).catch((error: Error) => error);
  if (half instanceof Error) test("webgpu-f16 decide on updates", { skip: half.message });
  else deferredContract("webgpu-f16", () => Promise.resolve(half), true);
} else test("the webgpu kernels keep the contract", { skip: missing });
