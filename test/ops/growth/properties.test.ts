/** Growth requests nobody thought of: each is either refused by field or keeps the laws and its word. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { headDimMaps } from "../../../src/ops/growth/axes.ts";
import fc from "fast-check";
import { CodedError } from "../../../src/ops/errors.ts";
import { checkPlanLaws, listOperators, planGrowth, type GrowthPlan } from "../../../src/ops/growth/index.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { execute, inDouble, makeToy } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";

const seed = 20_240_525;

const sources = fc
  .record({
    hiddenPerHead: fc.integer({ min: 2, max: 7 }),
    groups: fc.integer({ min: 1, max: 3 }),
    groupSize: fc.integer({ min: 1, max: 3 }),
    pairs: fc.integer({ min: 1, max: 3 }),
    intermediateSize: fc.integer({ min: 1, max: 9 }),
    numHiddenLayers: fc.integer({ min: 1, max: 2 }),
    tieWordEmbeddings: fc.boolean(),
    attentionBias: fc.boolean(),
    mlpBias: fc.boolean(),
    seed: fc.nat(),
  })
  .map(({ hiddenPerHead, groups, groupSize, pairs, seed: drawn, ...rest }) => {
    const numAttentionHeads = groups * groupSize;
    const sizes = { hiddenSize: hiddenPerHead * numAttentionHeads, numAttentionHeads, numKeyValueHeads: groups };
    return makeToy({ ...rest, ...sizes, headDim: 2 * pairs, vocabSize: 11 }, drawn);
  });

const size = fc.integer({ min: 1, max: 40 });
const anyTarget = fc.record(
  { hidden_size: size, intermediate_size: size, num_attention_heads: size, num_key_value_heads: size, head_dim: size },
  { requiredKeys: [] },
);
/** Sizes that fit each other; whether they fit the source is left to chance. */
const fittingTarget = fc
  .tuple(
    fc.integer({ min: 1, max: 6 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 3, max: 9 }),
    size,
    fc.boolean(),
  )
  .map(([groups, groupSize, perHead, intermediate_size, narrow]) => ({
    hidden_size: groups * groupSize * perHead,
    num_attention_heads: groups * groupSize,
    num_key_value_heads: groups,
    ...(narrow ? {} : { intermediate_size, head_dim: 12 }),
  }));
const target = fc.oneof({ weight: 4, arbitrary: fittingTarget }, anyTarget);
const widths = fc.record(
  {
    target,
    split: fc.constantFrom("elementwise", "scalar", "even", "tile", "lemon"),
    fidelity: fc.constantFrom("exact", "paper"),
    rule: fc.constantFrom("one_zero_per_path", "eq14"),
    epsilon: fc.constantFrom("config", "weights", "none"),
  },
  { requiredKeys: ["target"] },
);

/** The operator's own parameters among those drawn. */
function paramsFor(operator: string, drawn: Record<string, unknown>): JsonObject {
  const known = operator === "direct" ? ["target", "split", "fidelity"] : ["target", "rule", "epsilon"];
  return Object.fromEntries(Object.entries(drawn).filter(([name]) => known.includes(name))) as JsonObject;
}

function planOrRefusal(run: () => GrowthPlan): GrowthPlan | null {
  try {
    return run();
  } catch (error) {
    assert.ok(error instanceof CodedError, String(error));
    assert.ok(error.code === "invalid_request" || error.code === "unprocessable", error.message);
    assert.ok(error.fields.length > 0 && error.fields[0]!.pointer.startsWith("/"), error.message);
    return null;
  }
}

test("any width target is refused by field, or grows to the logits that its plan promises", () => {
  let planned = 0;
  const property = fc.property(sources, widths, fc.constantFrom("direct", "zero"), (toy, drawn, operator) => {
    const request = { operator, axis: "width", params: paramsFor(operator, drawn), seed: 1 } as const;
    const plan = planOrRefusal(() => planGrowth(toy.source, request));
    if (plan === null) return;
    planned += 1;
    checkPlanLaws(toy.source, plan);
    if (!plan.preservesFunction.value) return;
    const weights = inDouble(toy.weights);
    const ids = [1, 7, 4, 4, 10];
    const before = referenceForward(toy.source.config, weights, ids);
    const change = maxDifference(referenceForward(plan.targetConfig, execute(plan, weights), ids), before);
    assert.ok(change <= 1e-11, `logits change by ${change}`);
  });
  fc.assert(property, { seed, numRuns: 1000 });
  assert.ok(planned > 100, `only ${planned} of the drawn requests were possible`);
});

test("any JSON for params, on any operator and axis, is refused by field or planned; nothing else is thrown", () => {
  const { source } = makeToy();
  const names = ["layers", "pattern", "positions", "target", "split", "rule", "noise", "steps", "epsilon", "fidelity"];
  const params = fc.dictionary(fc.constantFrom(...names, "__proto__"), fc.jsonValue({ maxDepth: 3 }), { maxKeys: 3 });
  const operators = listOperators().map(({ name }) => name);
  const request = fc.record(
    {
      operator: fc.constantFrom(...operators),
      axis: fc.constantFrom("depth", "width"),
      factor: fc.constantFrom(1, 2, 1.5),
      params,
    },
    { requiredKeys: ["params"] },
  );
  const property = fc.property(request, (drawn) => {
    const plan = planOrRefusal(() => planGrowth(source, drawn as Parameters<typeof planGrowth>[1]));
    if (plan !== null) checkPlanLaws(source, plan);
  });
  fc.assert(property, { seed, numRuns: 2000 });
});

test("invariant 28: a head that grows by n keeps its rotary frequencies: pair i becomes pair n i, with the same angle", () => {
  for (const [headDim, factor] of [
    [8, 2],
    [8, 3],
    [64, 4],
  ] as const) {
    const size = headDim * factor;
    const theta = (pair: number, dims: number): number => 10000 ** ((-2 * pair) / dims);
    const { key, query } = headDimMaps(headDim, factor, false);
    const kept = [...key.origin].flatMap((from, dim) => (from >= 0 ? [[from, dim] as const] : []));
    assert.equal(kept.length, headDim);
    for (const [from, dim] of kept) {
      assert.equal(Math.floor(dim / (size / 2)), Math.floor(from / (headDim / 2)), "halves stay halves");
      const [before, after] = [theta(from % (headDim / 2), headDim), theta(dim % (size / 2), size)];
      assert.ok(Math.abs(after / before - 1) < 1e-12, `${after} for ${before}`);
      assert.equal(query.origin[dim], from);
    }
  }
});
