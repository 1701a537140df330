/** How products are cut into parts; what a step computes is tested in infer/teamModel.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { mostBlasOutputs, mostDirectRows } from "../../../src/engine/kernels/inference/panels.ts";
import { mostParts } from "../../../src/engine/kernels/inference/team.ts";
import { panelsOfPart } from "../../../src/engine/model/teamLlama.ts";

test("the parts of any matrices are no more than threads can share, and no larger than they must be", () => {
  const matrices = fc.record({
    panels: fc.array(fc.integer({ min: 1, max: 200_000 }), { minLength: 1, maxLength: 3 }),
    width: fc.constantFrom(8, 16),
    rows: fc.integer({ min: 1, max: 200 }),
    threads: fc.integer({ min: 1, max: 64 }),
  });
  fc.assert(
    fc.property(matrices, ({ panels, width, rows, threads }) => {
      const size = panelsOfPart(panels, width, rows, threads);
      const parts = panels.reduce((sum, count) => sum + Math.ceil(count / size), 0);
      assert.ok(parts <= mostParts, `${parts} parts of ${size} panels`);
      if (rows <= mostDirectRows) assert.ok(size === 64 / width || parts > mostParts / 4, `${parts} parts`);
      else assert.ok(size * width <= mostBlasOutputs || parts > mostParts / 4, `${size} panels a part`);
    }),
    { seed: 6, numRuns: 2000 },
  );
});
