import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { checkPlanLaws, planGrowth, type GrowthPlan } from "../../../src/ops/growth/index.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { execute, inDouble, makeToy, toyIds } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";
import { loadSafetensors } from "../helpers/safetensors.ts";

const toy = makeToy({ attentionBias: true, mlpBias: true });

function depth(request: { factor?: number; params?: JsonObject }, source = toy.source): GrowthPlan {
  const plan = planGrowth(source, { operator: "zero", axis: "depth", ...request });
  checkPlanLaws(source, plan);
  return plan;
}

const placements: [
  title: string,
  request: { factor?: number; params?: JsonObject },
  layers: number[],
  fresh: number[],
][] = [
  ["adjacent", { factor: 2 }, [0, 0, 1, 1, 2, 2], [1, 3, 5]],
  ["appended", { factor: 2, params: { pattern: "stack" } }, [0, 1, 2, 0, 1, 2], [3, 4, 5]],
  ["after every layer", { params: { pattern: { name: "llama_pro", every: 1 } } }, [0, 0, 1, 1, 2, 2], [1, 3, 5]],
  ["after the last of three", { params: { pattern: { name: "llama_pro", every: 3 } } }, [0, 1, 2, 2], [3]],
  ["in front and behind", { params: { positions: [0, 4] } }, [0, 0, 1, 2, 2], [0, 4]],
  ["two in a row, given in any order", { params: { positions: [3, 2] } }, [0, 1, 1, 1, 2], [2, 3]],
  ["by a list", { params: { layers: [0, 1, 0, 2, 1] } }, [0, 1, 0, 2, 1], [2, 4]],
  ["as SOLAR overlaps", { params: { pattern: { name: "solar", drop: 1 } } }, [0, 1, 1, 2], [2]],
];
for (const [title, request, layers, fresh] of placements) {
  test(`invariant 3: new layers ${title} change no logit, to the bit, in float32 and float64`, () => {
    const plan = depth(request);
    assert.deepEqual(plan.layerMap, layers);
    assert.deepEqual(plan.newLayers, fresh);
    assert.deepEqual([plan.preservesFunction.value, plan.preservesFunction.tolerance], [true, 0]);
    for (const weights of [toy.weights, inDouble(toy.weights)]) {
      const before = referenceForward(toy.source.config, weights, toyIds);
      const grown = execute<Float32Array | Float64Array>(plan, weights);
      assert.equal(maxDifference(referenceForward(plan.targetConfig, grown, toyIds), before), 0);
    }
  });
}

test("only the two outputs of new layers are written, and equal zeros are written once", () => {
  const plan = depth({ factor: 3 });
  const built = plan.tensors.filter(({ recipe }) => recipe.type === "build");
  assert.equal(built.length, 6 * 4); // o and down of six new layers, weights and biases
  const first = built.filter(({ recipe }) => recipe.type === "build" && recipe.sameAs === undefined);
  assert.deepEqual(
    first.map(({ info }) => info.name.replace("model.layers.1.", "")),
    ["self_attn.o_proj.weight", "self_attn.o_proj.bias", "mlp.down_proj.weight"],
  );
  assert.equal(plan.newBytes, 4 * (32 * 32 + 32 + 32 * 48));
});

test("one layer grows too", () => {
  const single = makeToy({ numHiddenLayers: 1 });
  assert.deepEqual(depth({ factor: 4 }, single.source).newLayers, [1, 2, 3]);
});

const refusals: [title: string, request: { factor?: number; params?: JsonObject }, code: string, pointer: string][] = [
  ["a list that skips a layer", { params: { layers: [0, 0, 2, 2] } }, "unprocessable", "/params/layers"],
  ["a list out of order", { params: { layers: [1, 0, 2, 2] } }, "unprocessable", "/params/layers"],
  ["a position beyond the target", { params: { positions: [0, 5] } }, "unprocessable", "/params/positions/1"],
  ["a position twice", { params: { positions: [1, 1] } }, "unprocessable", "/params/positions/1"],
  ["positions beside a factor", { factor: 2, params: { positions: [1] } }, "invalid_request", "/factor"],
  ["positions beside layers", { params: { positions: [1], layers: [0, 1, 2] } }, "invalid_request", "/params/layers"],
  ["a position of text", { params: { positions: ["1"] } }, "invalid_request", "/params/positions/0"],
  [
    "more than 1024 layers",
    { params: { positions: Array.from({ length: 1022 }, (_, i) => i) } },
    "unprocessable",
    "/params/positions",
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
for (const [folder, every] of [
  ["llamapro_4to6", 2],
  ["llamapro_4to8", 1],
] as const) {
  test(`golden ${folder}: TencentARC's block expansion gives the same weights to the bit`, needsShared(golden), () => {
    const base = loadSafetensors(join(golden!, "base", "model.safetensors"));
    const config = parseLlamaConfig(JSON.parse(readFileSync(join(golden!, "base", "config.json"), "utf8")));
    const plan = depth({ params: { pattern: { name: "llama_pro", every } } }, { config, tensors: base.infos });
    const wanted = loadSafetensors(join(golden!, folder, "model.safetensors")).values;
    const grown = execute(plan, base.values);
    assert.equal(grown.size, wanted.size);
    for (const [name, values] of wanted) assert.deepEqual(grown.get(name), values, name);
  });
}
