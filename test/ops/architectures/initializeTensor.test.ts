import assert from "node:assert/strict";
import { test } from "node:test";
import { initializeTensor, initialStd } from "../../../src/ops/architectures/initializeTensor.ts";
import { tensorSpecs } from "../../../src/ops/architectures/llama.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { toyConfig } from "../helpers/models.ts";

const config = {
  ...toyConfig,
  hiddenSize: 64,
  intermediateSize: 96,
  vocabSize: 101,
  attentionBias: true,
  mlpBias: true,
};

test("each tensor has the spread of the paper's rule: 2 / (5 fan_in), the down projection 1 / (fan_in l^2)", () => {
  for (const spec of tensorSpecs(config)) {
    const values = initializeTensor(config, spec.name, 3);
    if (spec.row.kind === "norm")
      assert.ok(
        values.every((value) => value === 1),
        spec.name,
      );
    else if (spec.row.kind === "bias")
      assert.ok(
        values.every((value) => value === 0),
        spec.name,
      );
    else {
      const fanIn = spec.shape[1]!;
      const std = spec.row.role === "down" ? 1 / (Math.sqrt(fanIn) * 3) : Math.sqrt(0.4 / fanIn);
      assert.equal(initialStd(config, spec), spec.row.role === "down" ? 1 / Math.sqrt(fanIn) / 3 : std);
      const measured = Math.sqrt(values.reduce((total, value) => total + value * value, 0) / values.length);
      assert.ok(
        Math.abs(measured / std - 1) < 4 / Math.sqrt(2 * values.length),
        `${spec.name}: ${measured} for ${std}`,
      );
      const mean = values.reduce((total, value) => total + value, 0) / values.length;
      assert.ok(Math.abs(mean) < (4 * std) / Math.sqrt(values.length), `${spec.name}: mean ${mean}`);
    }
  }
});

test("values depend on seed and name alone: not on order, not on the number of layers", () => {
  const name = "model.layers.1.self_attn.o_proj.weight";
  const first = initializeTensor(config, name, 5);
  initializeTensor(config, "lm_head.weight", 5);
  assert.deepEqual(initializeTensor({ ...config, numHiddenLayers: 9 }, name, 5), first);
  assert.notDeepEqual(initializeTensor(config, name, 6), first);
  assert.notDeepEqual(initializeTensor(config, name.replace("1", "0"), 5), first);
});

test("an unknown name is refused", () => {
  assert.throws(
    () => initializeTensor(config, "model.layers.3.mlp.up_proj.weight", 1),
    (error) => error instanceof CodedError && error.code === "not_found",
  );
});
