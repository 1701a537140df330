import assert from "node:assert/strict";
import { test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { checkPlanLaws, planGrowth, type GrowthPlan } from "../../../src/ops/growth/index.ts";
import { plannedSource } from "../../../src/ops/growth/compose.ts";
import { execute, inDouble, makeToy, toyIds } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";

const toy = makeToy({ tieWordEmbeddings: true });
const stack: JsonObject = { operator: "direct", axis: "depth", factor: 2 };
const tile: JsonObject = { operator: "direct", axis: "width", factor: 2, params: { split: "tile" } };
const wide: JsonObject = { operator: "direct", axis: "width", params: { target: { hidden_size: 44 } } };
const silent: JsonObject = { operator: "zero", axis: "depth", factor: 2 };

function compose(...steps: JsonObject[]): GrowthPlan {
  const plan = planGrowth(toy.source, { params: { steps }, seed: 4 });
  checkPlanLaws(toy.source, plan);
  return plan;
}

test("one plan of several steps gives the bits that the steps give one after the other", () => {
  const cases = [
    [stack, tile],
    [wide, stack],
    [silent, wide],
    [wide, silent, tile],
  ];
  for (const steps of cases) {
    let source = toy.source;
    let weights = inDouble(toy.weights);
    for (const step of steps) {
      const plan = planGrowth(source, { ...step, seed: 4 });
      weights = execute(plan, weights);
      source = plannedSource(plan);
    }
    const plan = compose(...steps);
    assert.deepEqual(plan.targetConfig, source.config);
    assert.deepEqual(execute(plan, inDouble(toy.weights)), weights, JSON.stringify(steps));
  }
});

test("invariant 30: stacking by 2 and by 3 is stacking by 6, all by reference", () => {
  const plan = compose(stack, { ...stack, factor: 3 });
  const once = planGrowth(toy.source, { ...stack, factor: 6 });
  assert.deepEqual(plan.tensors, once.tensors);
  assert.deepEqual([plan.newBytes, plan.layerMap, plan.newLayers], [0, once.layerMap, once.newLayers]);
});

test("invariant 30: tile and stack commute, and the order wide-then-deep builds each tensor once", () => {
  const wideFirst = compose(tile, stack);
  const deepFirst = compose(stack, tile);
  assert.deepEqual(execute(wideFirst, toy.weights), execute(deepFirst, toy.weights));
  assert.equal(wideFirst.newBytes, compose(tile).newBytes);
  assert.ok(deepFirst.newBytes > wideFirst.newBytes);
  for (const { info, recipe } of wideFirst.tensors) {
    if (recipe.type !== "build" || recipe.sameAs === undefined) continue;
    assert.equal(
      recipe.sameAs,
      info.name.replace(/layers\.(\d)/, (_, layer: string) => `layers.${Number(layer) - 3}`),
    );
  }
});

test("preserving steps compose to a preserving plan, to 1e-12 in float64; one that does not spoils it", () => {
  const plan = compose(silent, wide);
  assert.equal(plan.preservesFunction.value, true);
  const weights = inDouble(toy.weights);
  const before = referenceForward(toy.source.config, weights, toyIds);
  assert.ok(maxDifference(referenceForward(plan.targetConfig, execute(plan, weights), toyIds), before) <= 1e-12);
  const spoilt = compose(wide, stack).preservesFunction;
  assert.deepEqual([spoilt.value, spoilt.tolerance], [false, null]);
  assert.doesNotMatch(spoilt.reason, /mean square/);
});

test("layer map, new layers and axis are those of the whole", () => {
  const plan = compose(silent, stack);
  assert.deepEqual(plan.layerMap, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
  assert.deepEqual(plan.newLayers, [1, 3, 5, 6, 7, 8, 9, 10, 11]);
  assert.deepEqual([plan.operator, plan.axis, compose(wide, stack).axis], ["composition", "depth", null]);
});

test("a copy of a new layer is new too, and zeros made by an early step are still written once", () => {
  const second: JsonObject = { operator: "zero", axis: "depth", params: { positions: [1] } };
  assert.deepEqual(compose(second, silent).newLayers, [1, 2, 3, 5, 7]);
  const written = (plan: GrowthPlan): number =>
    plan.tensors.filter(({ recipe }) => recipe.type === "build" && recipe.sameAs === undefined).length;
  assert.deepEqual([written(compose(silent)), written(compose(silent, stack))], [2, 2]);
});

const refusals: [title: string, request: object, pointer: string][] = [
  ["an operator beside steps", { operator: "direct", params: { steps: [stack] } }, "/operator"],
  ["a factor beside steps", { factor: 2, params: { steps: [stack] } }, "/factor"],
  ["no step", { params: { steps: [] } }, "/params/steps"],
  ["nine steps", { params: { steps: new Array<JsonObject>(9).fill({ ...stack, factor: 1 }) } }, "/params/steps"],
  ["steps that are no list", { params: { steps: {} } }, "/params/steps"],
  ["another parameter beside steps", { params: { steps: [stack], noise: 1 } }, "/params/noise"],
  [
    "an operator's own steps that are no list",
    { operator: "learn", axis: "depth", params: { steps: 5 } },
    "/params/steps",
  ],
  ["a step that is null", { params: { steps: [null] } }, "/params/steps/0"],
  ["a step with a foreign field", { params: { steps: [{ ...stack, seed: 1 }] } }, "/params/steps/0/seed"],
  [
    "a step of an unknown operator",
    { params: { steps: [stack, { ...stack, operator: "x" }] } },
    "/params/steps/1/operator",
  ],
  ["a step of an unknown axis", { params: { steps: [{ ...stack, axis: "x" }] } }, "/params/steps/0/axis"],
  ["a step with a factor of text", { params: { steps: [{ ...stack, factor: "2" }] } }, "/params/steps/0/factor"],
  [
    "a step's own bad parameter",
    { params: { steps: [stack, { ...wide, params: { split: 1, target: {} } }] } },
    "/params/steps/1/params/split",
  ],
  [
    "steps within steps",
    { params: { steps: [{ ...stack, params: { steps: [stack] } }] } },
    "/params/steps/0/params/steps",
  ],
];
for (const [title, request, pointer] of refusals) {
  test(`refused: ${title}, at ${pointer}`, () => {
    assert.throws(
      () => planGrowth(toy.source, request),
      (error) => {
        assert.ok(error instanceof CodedError, String(error));
        assert.deepEqual([error.code, error.fields[0]?.pointer], ["invalid_request", pointer]);
        return true;
      },
    );
  });
}
