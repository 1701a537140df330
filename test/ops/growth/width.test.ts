import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLlamaConfig, type LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { checkPlanLaws, planGrowth, type GrowthPlan, type GrowthSource } from "../../../src/ops/growth/index.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { execute, inDouble, makeToy, toyIds, type Toy } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";
import { loadSafetensors } from "../helpers/safetensors.ts";

const exact = 1e-12;

function width(source: GrowthSource, params: JsonObject, operator = "direct", factor?: number): GrowthPlan {
  return planGrowth(source, { operator, axis: "width", params, seed: 3, ...(factor === undefined ? {} : { factor }) });
}

/** Largest logit change, computed in double precision throughout. */
function change(toy: Toy, plan: GrowthPlan): number {
  checkPlanLaws(toy.source, plan);
  const weights = inDouble(toy.weights);
  const before = referenceForward(toy.source.config, weights, toyIds);
  return maxDifference(referenceForward(plan.targetConfig, execute(plan, weights), toyIds), before);
}

const kinds: [title: string, config: Partial<LlamaConfig>][] = [
  ["untied", {}],
  ["tied", { tieWordEmbeddings: true }],
  ["with biases", { attentionBias: true, mlpBias: true }],
  [
    "with llama3 rope",
    {
      ropeScaling: {
        type: "llama3",
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositionEmbeddings: 64,
      },
    },
  ],
];

for (const [title, config] of kinds) {
  const toy = makeToy(config);

  test(`invariant 6: whole multiples, every split, ${title}: logits to 1e-12 in float64`, () => {
    for (const factor of [2, 3]) {
      for (const split of ["even", "scalar", "elementwise", "tile", "lemon"]) {
        const difference = change(toy, width(toy.source, { split }, "direct", factor));
        assert.ok(difference <= exact, `factor ${factor} ${split}: ${difference}`);
      }
    }
  });

  test(`invariant 7: balanced copies for hidden 40, 44, 64, 96 with all axes, ${title}: logits to 1e-12`, () => {
    for (const hidden_size of [40, 44, 64, 96]) {
      for (const split of ["even", "elementwise"]) {
        const others = { intermediate_size: 61, num_attention_heads: 4, num_key_value_heads: 4, head_dim: 16 };
        for (const target of [{ hidden_size }, { hidden_size, ...others }]) {
          const difference = change(toy, width(toy.source, { target, split }));
          assert.ok(difference <= exact, `${JSON.stringify(target)} ${split}: ${difference}`);
        }
      }
    }
  });

  test(`invariant 10: LEMON's padding with eps floor(D/d) d / D, ${title}: logits to 1e-12`, () => {
    for (const hidden_size of [44, 64, 80]) {
      const plan = width(toy.source, { target: { hidden_size }, split: "lemon" });
      assert.ok(change(toy, plan) <= exact);
      assert.equal(plan.targetConfig.rmsNormEps, (1e-5 * Math.floor(hidden_size / 32) * 32) / hidden_size);
      const uncorrected = { ...plan, targetConfig: { ...plan.targetConfig, rmsNormEps: 1e-5 } };
      const difference = change(toy, uncorrected);
      assert.ok(hidden_size === 64 ? difference <= exact : difference > 1e-6, `uncorrected: ${difference}`);
    }
  });

  test(`invariant 11: zero width, ${title}: to 1e-12 with eps corrected either way, between 1e-5 and 1e-3 without`, () => {
    const target = {
      hidden_size: 44,
      intermediate_size: 61,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 24,
    };
    for (const rule of ["one_zero_per_path", "eq14"]) {
      for (const epsilon of ["config", "weights"]) {
        const plan = width(toy.source, { target, rule, epsilon }, "zero");
        assert.ok(change(toy, plan) <= exact, `${rule} ${epsilon}: ${change(toy, plan)}`);
        assert.equal(plan.targetConfig.rmsNormEps, epsilon === "config" ? (1e-5 * 32) / 44 : 1e-5);
      }
      const plan = width(toy.source, { rule, epsilon: "none" }, "zero", 2);
      const difference = change(toy, plan);
      assert.ok(difference > 1e-6 && difference < 1e-3, `${rule} without correction: ${difference}`);
      assert.equal(plan.preservesFunction.value, false);
    }
  });
}

test("invariant 7 in float32: the same targets within 1e-4", () => {
  for (const [, config] of kinds) {
    const toy = makeToy(config);
    const before = referenceForward(toy.source.config, toy.weights, toyIds);
    for (const hidden_size of [40, 44, 64, 96]) {
      const plan = width(toy.source, { target: { hidden_size, intermediate_size: 100 } });
      const after = referenceForward(plan.targetConfig, execute(plan, toy.weights), toyIds);
      assert.ok(maxDifference(after, before) <= 1e-4);
    }
  }
});

test("invariant 8: the paper's norm rule, unequal copies without scales, an uncorrected tied head: none preserves", () => {
  const toy = makeToy();
  const paper = width(toy.source, { fidelity: "paper", split: "even" }, "direct", 2);
  assert.equal(paper.preservesFunction.value, false);
  assert.ok(change(toy, paper) > 1, String(change(toy, paper)));
  // One axis grown without the hidden one: nothing is left of the paper's error.
  assert.ok(change(toy, width(toy.source, { fidelity: "paper", target: { intermediate_size: 50 } })) <= exact);
  const tied = makeToy({ tieWordEmbeddings: true });
  const tiled = width(tied.source, { split: "tile" }, "direct", 2);
  const weights = inDouble(tied.weights);
  const grown = execute(tiled, weights);
  grown.set(
    "model.norm.weight",
    grown.get("model.norm.weight")!.map((value) => value * 2),
  );
  const before = referenceForward(tied.source.config, weights, toyIds);
  assert.ok(maxDifference(referenceForward(tiled.targetConfig, grown, toyIds), before) > 1);
});

test("invariant 9: scales s_j = sqrt(D / (d m_j)) keep the mean square of whatever is written", () => {
  const toy = makeToy();
  const weights = inDouble(toy.weights);
  for (const hidden_size of [40, 44, 96]) {
    const grown = execute(width(toy.source, { target: { hidden_size } }), weights).get("model.embed_tokens.weight")!;
    const source = weights.get("model.embed_tokens.weight")!;
    const meanSquare = (values: Float64Array): number =>
      values.reduce((sum, value) => sum + value * value, 0) / values.length;
    for (let id = 0; id < 53; id += 1) {
      const before = meanSquare(source.subarray(id * 32, (id + 1) * 32));
      const after = meanSquare(grown.subarray(id * hidden_size, (id + 1) * hidden_size));
      assert.ok(Math.abs(after / before - 1) < 1e-14);
    }
  }
});

test("invariant 13: kv heads repeated to MHA are bit-exact and leave every query and output by reference", () => {
  const toy = makeToy();
  const plan = width(toy.source, { target: { num_key_value_heads: 4 } });
  assert.equal(change(toy, plan), 0);
  for (const { info, recipe } of plan.tensors) {
    assert.equal(recipe.type, /[kv]_proj/.test(info.name) ? "build" : "copy", info.name);
  }
});

test("invariant 13: query heads copied inside their group, heads regrouped, MQA grown: logits to 1e-12", () => {
  const toy = makeToy();
  const mqa = makeToy({ numKeyValueHeads: 1 });
  const cases: [Toy, JsonObject][] = [
    [toy, { num_attention_heads: 8 }],
    [toy, { num_attention_heads: 16, num_key_value_heads: 2 }],
    [toy, { num_attention_heads: 16, num_key_value_heads: 16 }],
    [toy, { num_attention_heads: 8, num_key_value_heads: 4 }],
    [mqa, { num_attention_heads: 8, num_key_value_heads: 2 }],
    [mqa, { num_attention_heads: 8, num_key_value_heads: 8 }],
    [makeToy({ numKeyValueHeads: 4 }), { num_attention_heads: 8, num_key_value_heads: 4 }],
    [
      makeToy({ hiddenSize: 36, numAttentionHeads: 6, numKeyValueHeads: 2 }),
      { num_attention_heads: 9, num_key_value_heads: 3 },
    ],
  ];
  for (const [source, target] of cases) {
    const difference = change(source, width(source.source, { target }));
    assert.ok(difference <= exact, `${JSON.stringify(target)}: ${difference}`);
  }
});

test("invariants 13 and 28: head_dim times n keeps the rotary angles: logits to 1e-12, for direct and zero", () => {
  for (const [, config] of kinds) {
    const toy = makeToy(config);
    for (const head_dim of [16, 24, 32]) {
      for (const operator of ["direct", "zero"]) {
        const difference = change(toy, width(toy.source, { target: { head_dim } }, operator));
        assert.ok(difference <= exact, `${operator} ${head_dim}: ${difference}`);
      }
    }
  }
  for (const [headDim, factor] of [
    [8, 2],
    [6, 3],
  ] as const) {
    const angle = (dim: number, i: number): number => 10000 ** ((-2 * i) / dim);
    for (let i = 0; i < headDim / 2; i += 1)
      assert.ok(Math.abs(angle(headDim * factor, factor * i) / angle(headDim, i) - 1) < 1e-14);
  }
});

test("eq14 gives a new head that joins an old group a silent output: what it attends to is not zero", () => {
  const toy = makeToy();
  const target = { hidden_size: 48, num_attention_heads: 8 };
  const plan = width(toy.source, { target, rule: "eq14" }, "zero");
  assert.ok(change(toy, plan) <= exact, String(change(toy, plan)));
});

test("groups that shrink and cannot cover their source's heads are refused", () => {
  const { source } = makeToy({ numAttentionHeads: 8, headDim: 4 });
  const target = { hidden_size: 72, num_attention_heads: 9, num_key_value_heads: 3 };
  assert.throws(
    () => width(source, { target }),
    (error) => error instanceof CodedError && error.fields[0]?.pointer === "/params/target/num_key_value_heads",
  );
});

test("zero width, value by value: gains sqrt(d / D) [mu, 1], one zero per path, random elsewhere", () => {
  const toy = makeToy({ attentionBias: true });
  const grown = execute(width(toy.source, {}, "zero", 2), toy.weights);
  const layer = "model.layers.1.";
  const gain = grown.get(`${layer}input_layernorm.weight`)!;
  const before = toy.weights.get(`${layer}input_layernorm.weight`)!;
  gain.forEach((value, j) => assert.equal(value, Math.fround(Math.SQRT1_2 * (j < 32 ? before[j]! : 1))));
  /** Which of the four blocks (old or new row, old or new column) of a matrix are zero. */
  const zeroBlocks = (name: string, rows: number, columns: number): string => {
    const values = grown.get(name)!;
    const blocks = ["old-old", "old-new", "new-old", "new-new"].filter((block) => {
      const [row, column] = block.split("-");
      return values.every((value, at) => {
        const inside =
          Math.floor(at / (2 * columns)) < rows === (row === "old") &&
          at % (2 * columns) < columns === (column === "old");
        return !inside || value === 0;
      });
    });
    return blocks.join(" ");
  };
  for (const name of ["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj"]) {
    assert.equal(zeroBlocks(`${layer}${name}.weight`, name.includes("mlp") ? 48 : 32, 32), "", name);
  }
  assert.equal(zeroBlocks(`${layer}self_attn.o_proj.weight`, 32, 32), "old-new new-old new-new");
  assert.equal(zeroBlocks(`${layer}mlp.down_proj.weight`, 32, 48), "old-new new-old new-new");
  const embedding = grown.get("model.embed_tokens.weight")!;
  assert.ok(embedding.every((value, at) => at % 64 < 32 || value === 0));
  const paper = execute(width(toy.source, { rule: "eq14" }, "zero", 2), toy.weights).get(
    `${layer}mlp.gate_proj.weight`,
  )!;
  assert.ok(paper.every((value, at) => (at < 48 * 64 || at % 64 >= 32 ? value !== 0 : value === 0)));
});

test("only what an axis changes is built: growing the MLP leaves attention, norms and tables by reference", () => {
  const { source } = makeToy();
  for (const operator of ["direct", "zero"]) {
    const plan = width(source, { target: { intermediate_size: 64 } }, operator);
    const built = plan.tensors.filter(({ recipe }) => recipe.type === "build").map(({ info }) => info.name);
    assert.equal(built.length, 9);
    assert.ok(built.every((name) => name.includes(".mlp.")));
    assert.equal(plan.newBytes, 3 * 3 * 64 * 32 * 4);
    assert.equal(plan.peakMemoryBytes, 2 * 4 * (64 * 32 + 48 * 32));
  }
});

test("drawn splits depend on the seed and on the tensor's name, and on nothing else", () => {
  const toy = makeToy();
  const grown = (seed: number): Map<string, Float32Array> =>
    execute(planGrowth(toy.source, { operator: "direct", axis: "width", factor: 2, seed }), toy.weights);
  const gate = "model.layers.0.mlp.gate_proj.weight";
  assert.deepEqual(grown(1).get(gate), grown(1).get(gate));
  assert.notDeepEqual(grown(1).get(gate), grown(2).get(gate));
});

test("elementwise copies differ, even ones are equal: the reason for the default", () => {
  const toy = makeToy();
  const rows = (split: string): [Float32Array, Float32Array] => {
    const gate = execute(width(toy.source, { split }, "direct", 2), toy.weights).get(
      "model.layers.0.mlp.gate_proj.weight",
    )!;
    return [gate.subarray(0, 64), gate.subarray(48 * 64, 49 * 64)];
  };
  const [evenFirst, evenCopy] = rows("even");
  assert.deepEqual(evenFirst, evenCopy);
  const [first, copy] = rows("elementwise");
  const relative =
    maxDifference([Float64Array.from(first)], [Float64Array.from(copy)]) / Math.max(...first.map(Math.abs));
  assert.ok(relative > 0.1);
});

const golden = sharedData("golden", "hf", "operators");
const clones: [folder: string, target: JsonObject][] = [
  [
    "hypercloning_emb2_ffn2",
    { hidden_size: 64, intermediate_size: 88, num_attention_heads: 8, num_key_value_heads: 4 },
  ],
  ["hypercloning_emb2_ffn1", { hidden_size: 64, num_attention_heads: 8, num_key_value_heads: 4 }],
  ["hypercloning_emb1_ffn3", { intermediate_size: 132 }],
  [
    "hypercloning_emb3_ffn2",
    { hidden_size: 96, intermediate_size: 88, num_attention_heads: 12, num_key_value_heads: 6 },
  ],
];
for (const [folder, target] of clones) {
  test(
    `golden ${folder}: Apple's HyperCloning gives the same weights to the bit, logits within 1e-3`,
    needsShared(golden),
    () => {
      const base = loadSafetensors(join(golden!, "base", "model.safetensors"));
      const config = parseLlamaConfig(JSON.parse(readFileSync(join(golden!, "base", "config.json"), "utf8")));
      const plan = width({ config, tensors: base.infos }, { target, split: "tile" });
      const wanted = loadSafetensors(join(golden!, folder, "model.safetensors")).values;
      const grown = execute(plan, base.values);
      assert.equal(grown.size, wanted.size);
      for (const [name, values] of wanted) assert.deepEqual(grown.get(name), values, name);
      assert.deepEqual(
        plan.targetConfig,
        parseLlamaConfig(JSON.parse(readFileSync(join(golden!, folder, "config.json"), "utf8"))),
      );
      const { input_ids: ids } = JSON.parse(readFileSync(join(golden!, "manifest.json"), "utf8")) as {
        input_ids: number[];
      };
      const logits = [...loadSafetensors(join(golden!, `${folder}.logits.safetensors`)).values.values()][0]!;
      const rows = ids.map((_, t) => Float64Array.from(logits.subarray(t * 97, (t + 1) * 97)));
      assert.ok(maxDifference(referenceForward(plan.targetConfig, grown, ids), rows) < 1e-3);
    },
  );
}
