/** G_random and its mask: what is computed in the course of the ramp, and what is left of it at the end. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { maskAfter, maskValues, planGrowth, type GrowthPlan } from "../../../src/ops/growth/index.ts";
import type { GrowthMask, JsonObject } from "../../../src/ops/manifest.ts";
import { computedWeights, execute, inDouble, makeToy, toyConfig, toyIds } from "../helpers/models.ts";
import { maxDifference, referenceForward, type Fading } from "../helpers/referenceForward.ts";

function maskAt(plan: GrowthPlan, step: number): GrowthMask {
  assert.ok(plan.growthMask);
  return { ...plan.growthMask, step };
}

/** The mask as the paper has it, on outputs: a part written apart from the one under test, which masks weights. */
function fadingOf(config: LlamaConfig, mask: GrowthMask): Fading {
  const c = maskValues(config, mask);
  const source = mask.sourceSizes;
  if (source === null) {
    const faded = (name: string, layer: number): boolean =>
      mask.layers.includes(layer) && /o_proj|down_proj/.test(name);
    return { factor: (name, layer) => (faded(name, layer) ? c.layers : 1), liveDimensions: config.hiddenSize };
  }
  const sizes: Record<string, [old: number, c: number]> = {
    embedding: [source.hiddenSize, c.hidden],
    "self_attn.o_proj": [source.hiddenSize, c.hidden],
    "mlp.down_proj": [source.hiddenSize, c.hidden],
    "mlp.gate_proj": [source.intermediateSize, c.intermediate],
    "mlp.up_proj": [source.intermediateSize, c.intermediate],
    "self_attn.q_proj": [source.numAttentionHeads * source.headDim, c.heads],
    "self_attn.k_proj": [source.numKeyValueHeads * source.headDim, c.heads],
    "self_attn.v_proj": [source.numKeyValueHeads * source.headDim, c.heads],
  };
  return {
    factor: (name, _, index) => (index < sizes[name]![0] ? 1 : sizes[name]![1]),
    liveDimensions: source.hiddenSize + c.hidden * (config.hiddenSize - source.hiddenSize),
  };
}

const growths: readonly { axis: "depth" | "width"; factor?: number; params?: JsonObject }[] = [
  { axis: "depth", factor: 2 },
  { axis: "depth", params: { positions: [1, 4] } },
  { axis: "width", factor: 2 },
  { axis: "width", params: { target: { hidden_size: 48, intermediate_size: 60 } } },
];

for (const tieWordEmbeddings of [false, true]) {
  for (const growth of growths) {
    const title = `${JSON.stringify(growth)}${tieWordEmbeddings ? ", tied" : ""}`;
    test(`invariant 5: ${title}: mask 0 is the source, mask 1 the plain model, between them outputs count c`, () => {
      const toy = makeToy({ tieWordEmbeddings });
      const plan = planGrowth(toy.source, {
        operator: "random",
        ...growth,
        params: { ...growth.params, ramp_steps: 8 },
      });
      const weights = execute(plan, inDouble(toy.weights));
      const at = (step: number) => {
        const growthMask = maskAt(plan, step);
        return referenceForward(plan.targetConfig, computedWeights({ ...plan, growthMask }, weights), toyIds);
      };
      const source = referenceForward(toy.source.config, inDouble(toy.weights), toyIds);
      // The mask's factors are float32; along depth 0 and 1 need none but themselves.
      assert.ok(maxDifference(at(0), source) <= (growth.axis === "depth" ? 0 : 1e-5));
      const plain = referenceForward(plan.targetConfig, weights, toyIds);
      assert.equal(maxDifference(at(8), plain), 0);
      assert.ok(maxDifference(plain, source) > 0.1, "the new parts show in the logits");
      for (const step of [1, 4]) {
        const faded = referenceForward(
          plan.targetConfig,
          weights,
          toyIds,
          fadingOf(plan.targetConfig, maskAt(plan, step)),
        );
        assert.ok(maxDifference(at(step), faded) < 1e-5, `step ${step}`);
        assert.ok(maxDifference(at(step), plain) > 1e-3 && maxDifference(at(step), source) > 1e-3);
      }
    });
  }
}

test("invariant 5: with the default ramp of 5000, c is 0.5 after 2500 updates and never exceeds 1", () => {
  const plan = planGrowth(makeToy().source, { operator: "random", axis: "depth", factor: 2 });
  assert.equal(plan.growthMask?.rampSteps, 5000);
  assert.equal(maskValues(plan.targetConfig, maskAt(plan, 2500)).layers, 0.5);
  assert.equal(maskValues(plan.targetConfig, maskAt(plan, 1e9)).layers, 1);
  assert.equal(maskAfter(plan.targetConfig, plan.growthMask, 4999)?.step, 4999);
  assert.equal(maskAfter(plan.targetConfig, plan.growthMask, 5000), null, "a finished ramp leaves a plain Llama");
});

test("three stages fade in intermediate neurons, hidden ones and heads, one after the other; axes that stay take no time", () => {
  const { source } = makeToy();
  const plan = planGrowth(source, {
    operator: "random",
    axis: "width",
    factor: 2,
    params: { stages: 3, ramp_steps: 10 },
  });
  const at = (step: number) => {
    const { intermediate, hidden, heads } = maskValues(plan.targetConfig, maskAt(plan, step));
    return [intermediate, hidden, heads];
  };
  assert.deepEqual(
    [at(0), at(5), at(15), at(25), at(30)],
    [
      [0, 0, 0],
      [0.5, 0, 0],
      [1, 0.5, 0],
      [1, 1, 0.5],
      [1, 1, 1],
    ],
  );
  assert.equal(maskAfter(plan.targetConfig, plan.growthMask, 29)?.step, 29);
  assert.equal(maskAfter(plan.targetConfig, plan.growthMask, 30), null);
  const one = planGrowth(source, {
    operator: "random",
    axis: "width",
    params: { target: { hidden_size: 40 }, stages: 3, ramp_steps: 10 },
  });
  assert.equal(maskValues(one.targetConfig, maskAt(one, 5)).hidden, 0.5);
  assert.equal(maskAfter(one.targetConfig, one.growthMask, 10), null);
});

test("new layers are appended unless positions say otherwise, and are drawn as a new model's are", () => {
  const { source } = makeToy();
  const plan = planGrowth(source, { operator: "random", axis: "depth", factor: 2 });
  assert.deepEqual(plan.layerMap, [0, 1, 2, null, null, null]);
  assert.deepEqual(plan.newLayers, [3, 4, 5]);
  const weights = execute(plan, makeToy().weights);
  const gate = weights.get("model.layers.4.mlp.gate_proj.weight")!;
  const std = Math.sqrt(gate.reduce((sum, value) => sum + value * value, 0) / gate.length);
  assert.ok(Math.abs(std / Math.sqrt(2 / (5 * toyConfig.hiddenSize)) - 1) < 0.1, String(std));
  assert.ok(weights.get("model.layers.4.input_layernorm.weight")!.every((value) => value === 1));
  const again = execute(
    planGrowth(source, { operator: "random", axis: "depth", factor: 2, seed: 1 }),
    makeToy().weights,
  );
  assert.notDeepEqual(again.get("model.layers.4.mlp.gate_proj.weight"), gate);
});

test("a source in mid-ramp is not grown, and a random growth is the last of its composition", () => {
  const { source } = makeToy();
  const refused = (grow: () => unknown, pointer: string): void => {
    assert.throws(
      grow,
      (error) => error instanceof CodedError && error.code === "unprocessable" && error.fields[0]?.pointer === pointer,
    );
  };
  const plan = planGrowth(source, { operator: "random", axis: "depth", factor: 2 });
  const masked = {
    config: plan.targetConfig,
    tensors: plan.tensors.map(({ info }) => info),
    growthMask: plan.growthMask ?? null,
  };
  refused(() => planGrowth(masked, { operator: "direct", axis: "depth", factor: 2 }), "/checkpoint");
  const random = { operator: "random", axis: "depth", factor: 2 };
  const width = { operator: "direct", axis: "width", factor: 2 };
  refused(() => planGrowth(source, { params: { steps: [random, width] } }), "/params/steps/1/operator");
  const last = planGrowth(source, { params: { steps: [width, random] } });
  assert.deepEqual(last.growthMask?.layers, [3, 4, 5]);
  assert.ok(last.preservesFunction.value);
});

test("a mask of a model that did not grow is none", () => {
  const { source } = makeToy();
  assert.equal(planGrowth(source, { operator: "random", axis: "depth", factor: 1 }).growthMask ?? null, null);
  assert.equal(planGrowth(source, { operator: "random", axis: "width", factor: 1 }).growthMask ?? null, null);
});
