import assert from "node:assert/strict";
import { test } from "node:test";
import { tensorSpecs } from "../../../src/ops/architectures/llama.ts";
import { planGrowth, type GrowthPlan } from "../../../src/ops/growth/index.ts";
import { execute, makeToy } from "../helpers/models.ts";

const toy = makeToy({ attentionBias: true });
const grow = (noise: number, seed = 1, axis: "depth" | "width" = "depth"): GrowthPlan =>
  planGrowth(toy.source, { operator: "direct", axis, factor: 2, seed, params: { noise } });

test("invariant 16: noise 0 is no noise: the same recipes, by reference", () => {
  const plain = planGrowth(toy.source, { operator: "direct", axis: "depth", factor: 2, seed: 1 });
  assert.deepEqual(grow(0).tensors, plain.tensors);
});

test("invariant 16: noise 1 is nothing but noise, std sqrt(2 / (5 d)), of residual writers 1 / (sqrt(d) l)", () => {
  const plan = grow(1);
  const grown = execute(plan, toy.weights);
  const strangers = new Map([...toy.weights].map(([name, values]) => [name, values.map(() => 7)]));
  for (const { name, row, shape } of tensorSpecs(plan.targetConfig)) {
    const values = grown.get(name)!;
    if (row.kind === "norm" || row.kind === "bias") continue;
    assert.deepEqual(execute(plan, strangers).get(name), values, `${name} still depends on the source`);
    const fanIn = shape[1]!;
    const std = row.role === "down" || row.role === "output" ? 1 / (Math.sqrt(fanIn) * 6) : Math.sqrt(0.4 / fanIn);
    const measured = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    assert.ok(Math.abs(measured / std - 1) < 4 / Math.sqrt(2 * values.length), `${name}: ${measured} for ${std}`);
  }
});

test("noise leaves norms and biases alone and mixes the rest in proportion", () => {
  const [clean, mixed, pure] = [0, 0.25, 1].map((noise) => execute(grow(noise), toy.weights)) as [
    Map<string, Float32Array>,
    Map<string, Float32Array>,
    Map<string, Float32Array>,
  ];
  for (const [name, values] of mixed) {
    const base = clean.get(name)!;
    if (/norm|bias/.test(name)) assert.deepEqual(values, base, name);
    else {
      values.forEach((value, i) => {
        assert.ok(Math.abs(value - (0.75 * base[i]! + 0.25 * pure.get(name)![i]!)) < 1e-6, name);
      });
    }
  }
});

test("copies of one layer get different noise, the same request the same, another seed another", () => {
  const gate = (map: Map<string, Float32Array>, layer: number): Float32Array =>
    map.get(`model.layers.${layer}.mlp.gate_proj.weight`)!;
  const grown = execute(grow(0.2), toy.weights);
  assert.notDeepEqual(gate(grown, 0), gate(grown, 3));
  assert.deepEqual(execute(grow(0.2), toy.weights), grown);
  assert.notDeepEqual(gate(execute(grow(0.2, 2), toy.weights), 0), gate(grown, 0));
});

test("a growth that would preserve says that noise makes it not", () => {
  const { value, reason, tolerance } = grow(0.2, 1, "width").preservesFunction;
  assert.deepEqual([value, tolerance], [false, null]);
  assert.match(reason, /noise of 0\.2/);
});
