import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { countParameters, parseLlamaConfig } from "../../../src/ops/architectures/index.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { execute, makeToy, toyIds } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";
import { loadSafetensors } from "../helpers/safetensors.ts";

const toy = makeToy();

function depth(
  change: Omit<GrowthPlanRequest, "operator" | "axis">,
  source = toy.source,
): ReturnType<typeof planGrowth> {
  return planGrowth(source, { operator: "direct", axis: "depth", ...change });
}

test("invariant 1: factor 1, or the list of all layers, gives the same tensors and says that nothing changes", () => {
  for (const request of [{ factor: 1 }, { params: { layers: [0, 1, 2] } }]) {
    const plan = depth(request);
    for (const { info, recipe } of plan.tensors) assert.deepEqual(recipe, { type: "copy", source: info.name });
    assert.deepEqual([plan.preservesFunction.value, plan.preservesFunction.tolerance], [true, 0]);
    assert.deepEqual([plan.newBytes, plan.numNewParameters, plan.newLayers.length], [0, 0, 0]);
  }
});

test("invariant 2: target layer i is source layer i mod l, the rest is unchanged, the count is N g - (g - 1) d", () => {
  for (const factor of [2, 3, 4]) {
    const plan = depth({ factor });
    for (const { info, recipe } of plan.tensors) {
      const source = info.name.replace(/layers\.(\d+)/, (_, layer: string) => `layers.${Number(layer) % 3}`);
      assert.deepEqual(recipe, { type: "copy", source });
    }
    const base = countParameters(toy.source.config).nonEmbedding;
    assert.equal(plan.numParametersNonEmbedding, base * factor - (factor - 1) * 32);
    assert.equal(plan.newBytes, 0);
    assert.equal(plan.sharedBytes, 4 * plan.numParameters);
  }
});

test("stacking is not function preserving, by a wide margin", () => {
  const grown = execute(depth({ factor: 2 }), toy.weights);
  const config = { ...toy.source.config, numHiddenLayers: 6 };
  const before = referenceForward(toy.source.config, toy.weights, toyIds);
  assert.ok(maxDifference(referenceForward(config, grown, toyIds), before) > 0.5);
});

test("invariant 30: stacking twice by 2 is stacking once by 4", () => {
  const first = depth({ factor: 2 });
  const second = depth({ factor: 2 }, { config: first.targetConfig, tensors: first.tensors.map(({ info }) => info) });
  assert.deepEqual(execute(second, execute(first, toy.weights)), execute(depth({ factor: 4 }), toy.weights));
});

test("tensors keep the element type of the tensor they copy, mixed types included", () => {
  const tensors = toy.source.tensors.map((tensor) =>
    tensor.name.includes("layers.1.") ? { ...tensor, dtype: "BF16" as const } : tensor,
  );
  for (const { info } of depth({ factor: 2 }, { config: toy.source.config, tensors }).tensors) {
    assert.equal(info.dtype, /layers\.[14]\./.test(info.name) ? "BF16" : "F32", info.name);
  }
});

test("warnings: a one-layer base, growth above 4, source layers left out", () => {
  const warnings = (request: object, source = toy.source): string => depth(request, source).warnings.join("\n");
  assert.match(warnings({ factor: 2 }, makeToy({ numHiddenLayers: 1 }).source), /one layer/);
  assert.match(warnings({ factor: 5 }), /2 to 4/);
  assert.match(warnings({ params: { layers: [0, 0, 2, 2] } }), /source layers 1 are not used/);
  assert.equal(warnings({ factor: 2 }), "");
});

const refusals: [title: string, request: object, code: string, pointer: string][] = [
  ["no factor", {}, "invalid_request", "/factor"],
  ["half a layer", { factor: 1.5 }, "invalid_request", "/factor"],
  ["a factor of 0", { factor: 0 }, "invalid_request", "/factor"],
  ["1026 layers", { factor: 342 }, "unprocessable", "/factor"],
  ["a factor beside a list", { factor: 2, params: { layers: [0, 1, 2] } }, "invalid_request", "/factor"],
  ["a factor beside a partial stack", { factor: 2, params: { pattern: "12-3" } }, "invalid_request", "/factor"],
  ["a list beside a pattern", { params: { layers: [0], pattern: "stack" } }, "invalid_request", "/params/pattern"],
  ["a list that is no list", { params: { layers: "012" } }, "invalid_request", "/params/layers"],
  ["an empty list", { params: { layers: [] } }, "unprocessable", "/params/layers"],
  ["a list of 1025", { params: { layers: new Array<number>(1025).fill(0) } }, "unprocessable", "/params/layers"],
  ["a layer out of range", { params: { layers: [0, 1, 2, 3] } }, "unprocessable", "/params/layers/3"],
  ["a negative layer", { params: { layers: [0, -1, 2] } }, "unprocessable", "/params/layers/1"],
  ["a layer of text", { params: { layers: [0, "1", 2] } }, "invalid_request", "/params/layers/1"],
  ["a list that shrinks", { params: { layers: [0, 1] } }, "unprocessable", "/params/layers"],
  ["an unknown pattern", { params: { pattern: "spiral" } }, "unprocessable", "/params/pattern"],
  ["a pattern that is a number", { params: { pattern: 7 } }, "invalid_request", "/params/pattern"],
  ["a pattern that shrinks", { params: { pattern: "12" } }, "unprocessable", "/params/pattern"],
  [
    "a scheme that cannot be",
    { params: { pattern: { name: "midas", block: 2 } } },
    "unprocessable",
    "/params/pattern/block",
  ],
];
for (const [title, request, code, pointer] of refusals) {
  test(`refused: ${title}, at ${pointer}`, () => {
    assert.throws(
      () => depth(request),
      (error) => {
        assert.ok(error instanceof CodedError, String(error));
        assert.deepEqual([error.code, error.fields[0]?.pointer], [code, pointer]);
        return true;
      },
    );
  });
}

const golden = sharedData("golden", "hf", "operators");
const stacks: [folder: string, request: { factor?: number; params?: JsonObject }][] = [
  ["gstack_x2", { factor: 2 }],
  ["gstack_x3", { factor: 3 }],
  ["stack_interpolation", { factor: 2, params: { pattern: "interpolate" } }],
  ["stack_partial_12-34x3", { params: { pattern: "12-34*3" } }],
];
for (const [folder, request] of stacks) {
  test(`golden ${folder}: weights equal to the bit`, needsShared(golden), () => {
    const base = loadSafetensors(join(golden!, "base", "model.safetensors"));
    const config = parseLlamaConfig(JSON.parse(readFileSync(join(golden!, "base", "config.json"), "utf8")));
    const plan = depth(request, { config, tensors: base.infos });
    const wanted = loadSafetensors(join(golden!, folder, "model.safetensors")).values;
    const grown = execute(plan, base.values);
    assert.equal(grown.size, wanted.size);
    for (const [name, values] of wanted) assert.deepEqual(grown.get(name), values, name);
    const json: unknown = JSON.parse(readFileSync(join(golden!, folder, "config.json"), "utf8"));
    assert.deepEqual(plan.targetConfig, parseLlamaConfig(json));
  });
}
