/** Optimizer state through growth, held against gradients: a moment's growth is what it does to the gradient itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { plannedMoments, planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { computedWeights, execute, executeMoments, inDouble, makeToy } from "../helpers/models.ts";
import { referenceForward } from "../helpers/referenceForward.ts";

const ids = [1, 5, 3, 9, 2, 2, 7];
const smallest: Partial<LlamaConfig> = {
  ...{
    vocabSize: 11,
    hiddenSize: 8,
    intermediateSize: 6,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
  },
  headDim: 4,
};

type Model = ReadonlyMap<string, Float64Array>;

function lossOf(config: LlamaConfig, weights: Model): number {
  const logits = referenceForward(config, weights, ids);
  return ids.slice(1).reduce((sum, id, t) => {
    const row = logits[t]!;
    return sum + Math.log(row.reduce((mass, value) => mass + Math.exp(value), 0)) - row[id]!;
  }, 0);
}

/** Every derivative of the loss, by central differences. */
function gradients(weights: Model, loss: (weights: Model) => number): Map<string, Float64Array> {
  const step = 1e-5;
  return new Map(
    [...weights].map(([name, values]) => {
      const moved = values.slice();
      const model = new Map(weights).set(name, moved);
      return [
        name,
        values.map((value, index) => {
          moved[index] = value + step;
          const above = loss(model);
          moved[index] = value - step;
          const below = loss(model);
          moved[index] = value;
          return (above - below) / (2 * step);
        }),
      ];
    }),
  );
}

const exact: readonly [title: string, change: Partial<LlamaConfig>, request: GrowthPlanRequest][] = [
  ["tile by 2", {}, { operator: "direct", axis: "width", factor: 2, params: { split: "tile" } }],
  [
    "tile by 3, tied",
    { tieWordEmbeddings: true },
    { operator: "direct", axis: "width", factor: 3, params: { split: "tile" } },
  ],
  [
    "even, to uneven sizes, with biases",
    { attentionBias: true, mlpBias: true },
    {
      operator: "direct",
      axis: "width",
      params: { split: "even", target: { hidden_size: 12, intermediate_size: 10 } },
    },
  ],
  [
    "even, to uneven sizes, tied",
    { tieWordEmbeddings: true },
    { operator: "direct", axis: "width", params: { split: "even", target: { hidden_size: 14 } } },
  ],
  [
    "query heads alone",
    {},
    { operator: "direct", axis: "width", params: { split: "even", target: { num_attention_heads: 4 } } },
  ],
];

for (const [title, change, request] of exact) {
  test(`invariant 15: grown moments are the grown model's own gradients: ${title}`, () => {
    const toy = makeToy({ ...smallest, ...change });
    const plan = planGrowth(toy.source, request);
    const weights = inDouble(toy.weights);
    const before = gradients(weights, (model) => lossOf(toy.source.config, model));
    const after = gradients(execute(plan, weights), (model) => lossOf(plan.targetConfig, model));
    const first = executeMoments(plan, "first", before);
    const squares = new Map([...before].map(([name, values]) => [name, values.map((value) => value * value)]));
    const second = executeMoments(plan, "second", squares);
    for (const [name, values] of after) {
      values.forEach((value, index) => {
        const got = first.get(name)![index]!;
        assert.ok(Math.abs(got - value) < 1e-6, `${name}[${index}]: ${got} grown, ${value} real`);
        assert.ok(Math.abs(second.get(name)![index]! - got * got) < 1e-12, `second moment of ${name}[${index}]`);
      });
    }
  });
}

const padded: readonly GrowthPlanRequest[] = [
  { operator: "zero", axis: "width", factor: 2 },
  { operator: "zero", axis: "width", factor: 2, params: { epsilon: "weights" } },
  { operator: "random", axis: "width", factor: 2 },
];

for (const request of padded) {
  test(`beside new neurons old weights keep their gradient, new ones start from zero: ${JSON.stringify(request)}`, () => {
    for (const tieWordEmbeddings of [false, true]) {
      const toy = makeToy({ ...smallest, tieWordEmbeddings });
      const plan = planGrowth(toy.source, request);
      const weights = inDouble(toy.weights);
      const before = gradients(weights, (model) => lossOf(toy.source.config, model));
      const computed = (model: Model): Model => computedWeights(plan, model);
      const after = gradients(execute(plan, weights), (model) => lossOf(plan.targetConfig, computed(model)));
      const grown = executeMoments(plan, "first", before);
      // Where a moment of ones does not arrive, the weight is new.
      const old = executeMoments(
        plan,
        "first",
        new Map([...before].map(([name, values]) => [name, values.map(() => 1)])),
      );
      for (const [name, values] of grown) {
        values.forEach((value, index) => {
          if (old.get(name)![index] === 0) assert.equal(value, 0, name);
          else
            assert.ok(
              Math.abs(value - after.get(name)![index]!) < 1e-5,
              `${name}[${index}]: ${value}, ${after.get(name)![index]}`,
            );
        });
      }
      assert.ok([...old.values()].some((values) => values.some((value) => value === 0)));
    }
  });
}

test("depth: copies bring the moments of their layer, by reference; what is new starts from zero", () => {
  const toy = makeToy();
  const stacked = plannedMoments(planGrowth(toy.source, { operator: "direct", axis: "depth", factor: 2 }));
  assert.ok(stacked.every(({ first, second }) => first.type === "copy" && second === first));
  for (const operator of ["zero", "random"]) {
    const plan = planGrowth(toy.source, { operator, axis: "depth", factor: 2 });
    const moments = plannedMoments(plan);
    plan.tensors.forEach(({ recipe }, index) => {
      const { first } = moments[index]!;
      if (recipe.type === "copy") assert.equal(first, recipe);
      else assert.ok(first.type === "build" && first.zero === true && first.inputs.length === 0);
    });
  }
});

test("composition: moments go through both steps", () => {
  const toy = makeToy({ numHiddenLayers: 2 });
  const tile = { operator: "direct", axis: "width", factor: 2, params: { split: "tile" } };
  const stack = { operator: "direct", axis: "depth", factor: 2 };
  const zero = { operator: "zero", axis: "depth", factor: 2 };
  const ones = new Map([...inDouble(toy.weights)].map(([name, values]) => [name, values.fill(1)]));
  for (const steps of [
    [tile, stack],
    [stack, tile],
  ]) {
    const grown = executeMoments(planGrowth(toy.source, { params: { steps } }), "second", ones);
    assert.ok(grown.get("model.layers.3.mlp.up_proj.weight")!.every((value) => value === 0.25));
    assert.ok(grown.get("lm_head.weight")!.every((value) => value === 1));
  }
  const silent = executeMoments(planGrowth(toy.source, { params: { steps: [zero, tile] } }), "first", ones);
  assert.ok(silent.get("model.layers.1.mlp.down_proj.weight")!.every((value) => value === 0));
  assert.ok(silent.get("model.layers.1.mlp.up_proj.weight")!.every((value) => value === 0.5));
});

const refused: readonly [title: string, request: GrowthPlanRequest][] = [
  ["an elementwise split", { operator: "direct", axis: "width", factor: 2 }],
  ["a scalar split", { operator: "direct", axis: "width", factor: 2, params: { split: "scalar" } }],
  ["the paper's norms", { operator: "direct", axis: "width", factor: 2, params: { split: "even", fidelity: "paper" } }],
  [
    "a larger head_dim",
    { operator: "direct", axis: "width", params: { split: "even", target: { head_dim: 16, hidden_size: 64 } } },
  ],
  [
    "repeated kv heads",
    { operator: "direct", axis: "width", params: { split: "even", target: { num_key_value_heads: 4 } } },
  ],
  ["noise", { operator: "direct", axis: "depth", factor: 2, params: { noise: 0.1 } }],
  [
    "a step without a rule",
    {
      params: {
        steps: [
          { operator: "direct", axis: "width", factor: 2 },
          { operator: "zero", axis: "depth", factor: 2 },
        ],
      },
    },
  ],
];

for (const [title, request] of refused) {
  test(`no optimizer state is made up for ${title}`, () => {
    const plan = planGrowth(makeToy().source, request);
    assert.throws(
      () => plannedMoments(plan),
      (error) =>
        error instanceof CodedError &&
        error.code === "unprocessable" &&
        error.fields[0]?.pointer === "/optimizer_state",
    );
  });
}
