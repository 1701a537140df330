import assert from "node:assert/strict";
import { test } from "node:test";
import { bestSoFar, smooth, speedup, type CurvePoint } from "../../../src/ops/planner/speedup.ts";

const curve = (...points: [flops: number, loss: number][]): CurvePoint[] =>
  points.map(([flops, loss]) => ({ flops, loss }));

/** A power law, as losses fall: at `scale` times the FLOPs the same loss. */
const law = (scale: number): CurvePoint[] =>
  Array.from({ length: 200 }, (_, i) => ({ flops: (i + 1) * 1e18, loss: 5 * ((i + 1) / scale) ** -0.05 }));

test("invariant 26: 300B tokens from scratch for what growth reaches at 194B is a speedup of 0.5464", () => {
  const result = speedup(curve([0, 5], [300, 2]), curve([0, 5], [194, 2]));
  assert.equal(result.speedup?.toFixed(4), "0.5464");
});

test("invariant 26: an arm against itself is 0, a slower growth arm negative", () => {
  assert.equal(speedup(law(1), law(1)).speedup, 0);
  assert.ok(speedup(law(1), law(1.25)).speedup! < 0);
});

test("the ratio of FLOPs of two power laws is found at the lowest loss that both reach", () => {
  const result = speedup(law(1), law(0.8));
  assert.ok(result.speedup !== null);
  assert.equal(result.loss, law(1).at(-1)!.loss);
  assert.equal(result.scratchFlops, 200e18);
  assert.ok(Math.abs(result.speedup - 0.25) < 1e-4);
});

test("the spike after growth does not count: a curve is its best loss so far", () => {
  const growth = curve([1, 4], [2, 3], [3, 7], [4, 3.5], [6, 2]);
  assert.deepEqual(
    bestSoFar(growth).map(({ loss }) => loss),
    [4, 3, 3, 3, 2],
  );
  const result = speedup(curve([1, 4], [10, 2]), growth);
  assert.deepEqual([result.speedup, result.speedup === null ? null : result.growthFlops], [10 / 6 - 1, 6]);
});

test("levels between measurements are interpolated", () => {
  const result = speedup(curve([0, 4], [10, 2]), curve([0, 4], [4, 2]), { loss: 3 });
  assert.deepEqual(result, { speedup: 1.5, loss: 3, scratchFlops: 5, growthFlops: 2, reason: null });
});

test("curves that share no level have no speedup, and the reason names the arm", () => {
  assert.match(speedup(curve([1, 2], [2, 1.5]), curve([1, 4], [2, 3])).reason!, /scratch arm was below loss 3/);
  assert.match(speedup(curve([1, 4], [2, 3]), curve([1, 2], [2, 1.5])).reason!, /growth arm was below loss 3/);
  assert.match(speedup([], law(1)).reason!, /scratch arm has no finite loss/);
  assert.match(speedup(law(1), curve([1, Number.NaN])).reason!, /growth arm has no finite loss/);
  assert.match(speedup(law(1), law(1), { loss: 1 }).reason!, /scratch arm never reaches loss 1/);
});

test("smoothing averages around a point, over fewer near the ends, and sorts by FLOPs", () => {
  const points = curve([3, 6], [1, 0], [2, 3], [4, 0], [5, 6]);
  assert.deepEqual(smooth(points, 3), curve([1, 0], [2, 3], [3, 3], [4, 4], [5, 6]));
  assert.deepEqual(smooth(points, 1), curve([1, 0], [2, 3], [3, 6], [4, 0], [5, 6]));
  const noisy = law(0.8).map(({ flops, loss }, i) => ({ flops, loss: loss + (i % 2 === 0 ? 0.02 : -0.02) }));
  const result = speedup(law(1), noisy, { window: 11 });
  assert.ok(Math.abs(result.speedup! - 0.25) < 0.05, String(result.speedup));
});
