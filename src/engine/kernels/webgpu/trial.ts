/**
 * Which programs a device gets. `lanes` are written for subgroups of exactly 8, which only processors have that
 * play a GPU; where they can run, one product is computed both ways, and they are taken when they give the same bytes
 * and are faster. On all other devices there is nothing to choose.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../../ops/errors.ts";
import type { Gpu } from "./gpu.ts";
import { laneWidth } from "./laneProduct.ts";
import { makeMultiply, type ProductFamily } from "./products.ts";

/** y[size, size] = x w^T; no multiple of any block. */
const size = 250;
const rounds = 3;

/**
 * @param wanted programs to insist on
 * @throws backend_unavailable when the device cannot run them
 */
export async function chooseFamily(gpu: Gpu, wanted?: ProductFamily): Promise<ProductFamily> {
  const hasLanes = runsLanes(gpu.device);
  if (wanted === "lanes" && !hasLanes) {
    throw new CodedError("backend_unavailable", `kernels webgpu-lanes want subgroups of exactly ${laneWidth}`);
  }
  if (wanted) return wanted;
  return hasLanes && (await isFaithfulAndFaster(gpu)) ? "lanes" : "tiles";
}

function runsLanes({ features, adapterInfo }: GPUDevice): boolean {
  const { subgroupMinSize, subgroupMaxSize } = adapterInfo;
  return features.has("subgroups") && subgroupMinSize === laneWidth && subgroupMaxSize === laneWidth;
}

async function isFaithfulAndFaster(gpu: Gpu): Promise<boolean> {
  const values = Float32Array.from({ length: size * size }, (_, i) => ((i * 7919) % 1009) / 1009 - 0.5);
  const [a, b] = [tf.tensor2d(values, [size, size]), tf.tensor2d(values.toReversed(), [size, size])];
  const results = [];
  for (const family of ["lanes", "tiles"] as const) {
    const multiply = makeMultiply(gpu, { family, f16: false });
    const y = gpu.output([size, size]);
    let best = Infinity;
    for (let round = 0; round < rounds; round++) {
      const start = performance.now();
      multiply({ form: "nt", m: size, n: size, k: size, a, b, y });
      await gpu.finished();
      // The first round compiles.
      if (round > 0) best = Math.min(best, performance.now() - start);
    }
    results.push({ best, bytes: new Uint8Array((await y.data()).slice().buffer) });
    y.dispose();
  }
  tf.dispose([a, b]);
  const [lanes, tiles] = results;
  if (!lanes || !tiles || !Buffer.from(lanes.bytes).equals(tiles.bytes)) return false;
  return lanes.best <= tiles.best;
}
