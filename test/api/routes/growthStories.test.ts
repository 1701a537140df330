/** Growth of a real trained model through the whole service: what is promised to be kept is, in every element type. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { startHarness, type Harness } from "../helpers/harness.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const folder = sharedData("checkpoints", "stories260K");
const halfFolder = sharedData("checkpoints", "stories260K-bf16");

const growths: readonly [growth: object, preserves: boolean][] = [
  [{ operator: "direct", axis: "depth", factor: 2 }, false],
  [{ operator: "direct", axis: "depth", params: { pattern: "12-34*2-5" } }, false],
  [{ operator: "direct", axis: "width", params: { target: { hidden_size: 80, intermediate_size: 200 } } }, true],
  [{ operator: "direct", axis: "width", params: { target: { hidden_size: 96 }, split: "lemon" } }, true],
  [{ operator: "direct", axis: "width", factor: 2, params: { split: "tile" } }, true],
  [{ operator: "direct", axis: "width", factor: 2, params: { noise: 0.2 } }, false],
  [{ operator: "zero", axis: "depth", params: { positions: [0, 3, 6] } }, true],
  [{ operator: "zero", axis: "width", params: { target: { hidden_size: 128 }, rule: "eq14" } }, true],
  [{ operator: "random", axis: "depth", factor: 2 }, true],
  [{ operator: "random", axis: "width", factor: 2, params: { stages: 3 } }, true],
];

describe("growth of stories260K", () => {
  let api: Harness;
  before(async () => {
    const roots = [folder, halfFolder].filter((path) => path !== null).join(":");
    api = await startHarness(roots === "" ? {} : { environment: { IMPORT_ROOTS: roots } });
    for (const [name, path] of [
      ["full", folder],
      ["half", halfFolder],
    ]) {
      if (path) await api.work("/v1/checkpoints", { name, source: { type: "directory", path } });
    }
  });
  after(() => api.close());

  test("every operator keeps the logits within 1e-4 where it says so, in float32", needsShared(folder), async () => {
    for (const [growth, preserves] of growths) {
      const { receipt } = (await api.work("/v1/growths", { checkpoint: "full", ...growth })).result;
      const title = JSON.stringify(growth);
      assert.equal(receipt.preserves_function, preserves, title);
      assert.equal(receipt.verified, true, title);
      if (preserves) assert.ok(receipt.max_abs_logit_change <= 1e-4, `${title}: ${receipt.max_abs_logit_change}`);
      else assert.ok(receipt.max_abs_logit_change > 0.01, `${title}: ${receipt.max_abs_logit_change}`);
    }
  });

  test(
    "the same growth asked for twice has the same digest, and grown bfloat16 stays bfloat16",
    needsShared(halfFolder),
    async () => {
      const request = { checkpoint: "half", operator: "zero", axis: "width", factor: 2, seed: 5 };
      const [one, two] = [await api.work("/v1/growths", request), await api.work("/v1/growths", request)];
      assert.equal(one.result.receipt.digest, two.result.receipt.digest);
      assert.ok(one.result.receipt.max_abs_logit_change <= one.result.receipt.tolerance);
      const { body } = await api.call("GET", `/v1/checkpoints/${one.result.checkpoint}`);
      assert.equal(body.dtype, "BF16");
      const twin = (await api.call("GET", `/v1/checkpoints/${two.result.checkpoint}`)).body;
      assert.equal(twin.stored_bytes, 0, "equal bytes are stored once");
    },
  );
});
