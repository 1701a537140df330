import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { checkTensors, parseLlamaConfig } from "../../../src/ops/architectures/index.ts";
import { checkPlanLaws, planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { computedWeights, execute } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";
import { loadSafetensors } from "../helpers/safetensors.ts";

const ids = [1, 403, 407, 261, 378, 17, 99, 4, 250, 311];

const requests: GrowthPlanRequest[] = [
  ...[80, 96, 128].flatMap((hidden_size): GrowthPlanRequest[] => [
    { operator: "direct", axis: "width", params: { target: { hidden_size, intermediate_size: 200 } } },
    ...["lemon", "even", "scalar"].map((split): GrowthPlanRequest => {
      return { operator: "direct", axis: "width", params: { target: { hidden_size }, split } };
    }),
    { operator: "zero", axis: "width", params: { target: { hidden_size }, epsilon: "weights" } },
    { operator: "zero", axis: "width", params: { target: { hidden_size, intermediate_size: 200 } } },
    { operator: "zero", axis: "width", params: { target: { hidden_size }, rule: "eq14", epsilon: "weights" } },
  ]),
  ...["elementwise", "even", "scalar", "tile", "lemon"].map((split): GrowthPlanRequest => {
    return { operator: "direct", axis: "width", factor: 2, params: { split } };
  }),
  { operator: "zero", axis: "width", factor: 2 },
  { operator: "direct", axis: "width", params: { target: { head_dim: 16, num_key_value_heads: 8 } } },
  { operator: "zero", axis: "depth", factor: 2 },
  { operator: "random", axis: "depth", factor: 2 },
  { operator: "random", axis: "width", factor: 2 },
  { operator: "random", axis: "width", params: { target: { hidden_size: 80, intermediate_size: 200 }, stages: 3 } },
  { operator: "zero", axis: "depth", params: { pattern: { name: "llama_pro", every: 5 } } },
  {
    params: {
      steps: [
        { operator: "zero", axis: "depth", factor: 2 },
        { operator: "direct", axis: "width", factor: 2 },
      ],
    },
  },
];

for (const name of ["stories260K", "llama-2-tiny-random", "babyllama-tok105", "babyllama-tok361"]) {
  const folder = sharedData("checkpoints", name);
  test(
    `${name}: every preserving growth of real weights keeps the logits within 1e-4 in float32`,
    needsShared(folder),
    () => {
      const config = parseLlamaConfig(JSON.parse(readFileSync(join(folder!, "config.json"), "utf8")));
      const { infos, values } = loadSafetensors(join(folder!, "model.safetensors"));
      const source = { config, tensors: checkTensors(config, infos).tensors };
      const prompt = ids.slice(0, 6).map((id) => id % config.vocabSize);
      const before = referenceForward(config, values, prompt);
      const fitting = name === "stories260K" ? requests : requests.filter(({ factor }) => factor === 2);
      assert.ok(fitting.length >= 2);
      for (const request of fitting) {
        const plan = planGrowth(source, { ...request, seed: 1 });
        checkPlanLaws(source, plan);
        assert.equal(plan.preservesFunction.value, true);
        const change = maxDifference(
          referenceForward(plan.targetConfig, computedWeights(plan, execute(plan, values)), prompt),
          before,
        );
        assert.ok(change <= 1e-4, `${JSON.stringify(request)}: ${change}`);
      }
    },
  );
}
