/** G_learn's pure side: its table of parameters, what it starts from, and the arithmetic of an expansion. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { tensorSpecs } from "../../../src/ops/architectures/llama.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { learnedPlan, planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { checkPlanLaws } from "../../../src/ops/growth/plan.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { execute, inDouble, makeToy, toyIds } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";

const ask = (rest: Omit<GrowthPlanRequest, "operator">): GrowthPlanRequest => ({ operator: "learn", ...rest });

function parametersOf(rest: Omit<GrowthPlanRequest, "operator">, toy = makeToy()) {
  const { fit } = planGrowth(toy.source, ask(rest));
  assert.ok(fit);
  return fit.expansion.parameters;
}

const count = (shapes: readonly (readonly [number, number])[]): number => shapes.reduce((n, [a, b]) => n + a * b, 0);

test("invariant 14: learned depth growth starts as G_stack, bit for bit and by reference, signed zeros and all", () => {
  for (const change of [
    {},
    { tieWordEmbeddings: true },
    { attentionBias: true, mlpBias: true },
    { numHiddenLayers: 1 },
  ]) {
    const toy = makeToy(change);
    for (const values of toy.weights.values()) values[1] = -0;
    const stacked = planGrowth(toy.source, { operator: "direct", axis: "depth", factor: 4 });
    const started = planGrowth(toy.source, ask({ axis: "depth", factor: 4, params: { fit_steps: 0 } }));
    assert.deepEqual(started.tensors, stacked.tensors);
    assert.equal(started.newBytes, 0);
    assert.equal(started.fit, undefined);
    // With steps to come the same values are computed instead of referred to.
    const fitted = planGrowth(toy.source, ask({ axis: "depth", factor: 4 }));
    const bits = (made: ReadonlyMap<string, Float32Array>): Map<string, Uint32Array> =>
      new Map([...made].map(([name, values]) => [name, new Uint32Array(Float32Array.from(values).buffer)]));
    assert.deepEqual(bits(execute(fitted, toy.weights)), bits(execute(stacked, toy.weights)));
  }
});

test("invariant 14: depth alone has 9 L l coefficients: 1,296 from 6 to 24 layers, with biases or without", () => {
  for (const change of [{}, { attentionBias: true, mlpBias: true }]) {
    const parameters = parametersOf({ axis: "depth", factor: 4 }, makeToy({ numHiddenLayers: 6, ...change }));
    assert.equal(parameters.length, 9);
    assert.equal(count(parameters.map(({ shape }) => shape)), 1296);
  }
});

test("width maps exist for the axes that grow, one each, with queries, keys and values apart", () => {
  const shapes = (rest: Omit<GrowthPlanRequest, "operator">): Record<string, readonly number[]> =>
    Object.fromEntries(parametersOf(rest).map(({ name, shape }) => [name, shape]));
  assert.deepEqual(shapes({ axis: "width", factor: 2 }), {
    "width.hidden": [64, 32],
    "width.intermediate": [96, 48],
    "width.query": [64, 32],
    "width.key": [32, 16],
    "width.value": [32, 16],
  });
  assert.deepEqual(shapes({ axis: "width", params: { target: { hidden_size: 40 } } }), { "width.hidden": [40, 32] });
  const joint = shapes({ axis: "width", params: { target: { intermediate_size: 50 }, num_hidden_layers: 7 } });
  assert.deepEqual(Object.keys(joint).length, 10);
  assert.deepEqual(
    [joint["depth.q_proj"], joint["width.intermediate"]],
    [
      [7, 3],
      [50, 48],
    ],
  );
});

test("a width map starts as the identity over rows of N(0, 1 / size), the same for one seed and not for another", () => {
  const hidden = (seed: number): Float32Array =>
    parametersOf({ axis: "width", params: { target: { hidden_size: 512 } }, seed })[0]!.initial();
  const values = hidden(3);
  for (let row = 0; row < 32; row += 1) {
    for (let column = 0; column < 32; column += 1) assert.equal(values[row * 32 + column], row === column ? 1 : 0);
  }
  const fresh = values.subarray(32 * 32);
  const mean = fresh.reduce((sum, value) => sum + value, 0) / fresh.length;
  const variance = fresh.reduce((sum, value) => sum + (value - mean) ** 2, 0) / fresh.length;
  assert.ok(Math.abs(mean) < 0.002 && Math.abs(variance * 512 - 1) < 0.05, `${mean} ${variance}`);
  assert.deepEqual(hidden(3), values);
  assert.notDeepEqual(hidden(4), values);
});

/** Exchanging heads, neurons or residual dimensions of a model changes nothing: an expansion that does only that. */
test("an expansion that permutes every axis, and undoes a mixture of layers, keeps the function to 1e-12", () => {
  for (const change of [
    {},
    { tieWordEmbeddings: true },
    { attentionBias: true, mlpBias: true },
    { numKeyValueHeads: 4 },
  ]) {
    const toy = makeToy(change);
    const { source } = toy;
    const { config } = source;
    // A target with one neuron, head group and hidden dimension more, all of them zero: the maps are then square enough.
    const target = {
      hidden_size: 48,
      intermediate_size: 49,
      num_attention_heads: 6,
      num_key_value_heads: (6 / 4) * config.numKeyValueHeads,
    };
    const plan = planGrowth(source, ask({ axis: "width", params: { target, num_hidden_layers: 4 } }));
    const parameters = plan.fit!.expansion.parameters;
    const group = config.numAttentionHeads / config.numKeyValueHeads;
    const values = new Map(
      parameters.map(({ name, shape: [rows, columns] }) => {
        const map = new Float32Array(rows * columns);
        for (let column = 0; column < columns; column += 1) {
          let row = name.startsWith("depth.") ? column : rows - 1 - column;
          // whole groups of heads change places, or rotary frequencies and groups would be torn apart
          const block =
            name === "width.query"
              ? group * config.headDim
              : name === "width.key" || name === "width.value"
                ? config.headDim
                : 0;
          if (block > 0) row = rows - block * (Math.floor(column / block) + 1) + (column % block);
          map[row * columns + column] = 1;
        }
        return [name, map];
      }),
    );
    // The last layer is new and must add nothing: its mixtures are zero.
    const made = execute(
      learnedPlan(source, plan, (name) => values.get(name)!),
      inDouble(toy.weights),
    );
    const share = config.hiddenSize / 48;
    const scaled = new Map(
      [...made].map(([name, tensor]) => [name, /norm/.test(name) ? tensor.map((v) => v * Math.sqrt(share)) : tensor]),
    );
    const wide = { ...plan.targetConfig, rmsNormEps: config.rmsNormEps * share };
    const change_ = maxDifference(
      referenceForward(wide, scaled, toyIds),
      referenceForward(config, inDouble(toy.weights), toyIds),
    );
    assert.ok(change_ <= 1e-12, `logits change by ${change_}`);
  }
});

test("every tensor is rows (sum of d_j W_j) columns^T, as plain loops compute it", () => {
  const toy = makeToy();
  const plan = planGrowth(toy.source, ask({ axis: "width", factor: 2, params: { num_hidden_layers: 4 } }));
  const values = new Map(
    plan.fit!.expansion.parameters.map(({ name, shape }) => [
      name,
      seededStream(5, name).fillNormal(new Float32Array(shape[0] * shape[1]), 0.5),
    ]),
  );
  const made = execute(
    learnedPlan(toy.source, plan, (name) => values.get(name)!),
    inDouble(toy.weights),
  );
  const d = values.get("depth.gate_proj")!;
  const rows = values.get("width.intermediate")!;
  const columns = values.get("width.hidden")!;
  const got = made.get("model.layers.3.mlp.gate_proj.weight")!;
  for (const [r, c] of [
    [0, 0],
    [95, 63],
    [50, 7],
  ] as const) {
    let want = 0;
    for (let j = 0; j < 3; j += 1) {
      const w = toy.weights.get(`model.layers.${j}.mlp.gate_proj.weight`)!;
      for (let o = 0; o < 48; o += 1)
        for (let i = 0; i < 32; i += 1) {
          want += d[3 * 3 + j]! * rows[r * 48 + o]! * w[o * 32 + i]! * columns[c * 32 + i]!;
        }
    }
    assert.ok(Math.abs(got[r * 64 + c]! - want) <= 1e-12 * Math.max(1, Math.abs(want)), `${got[r * 64 + c]} ${want}`);
  }
  assert.equal(made.size, tensorSpecs(plan.targetConfig).length);
});

test("regrouped and grown heads get maps of the right sizes, and the plan keeps the laws", () => {
  const targets = [
    { num_key_value_heads: 4 },
    { num_attention_heads: 8, hidden_size: 64 },
    { head_dim: 16 },
    { num_attention_heads: 8, num_key_value_heads: 8, head_dim: 24 },
  ];
  const toy = makeToy({ attentionBias: true });
  for (const target of targets) {
    for (const fit_steps of [0, 3]) {
      const plan = planGrowth(toy.source, ask({ axis: "width", params: { target, fit_steps } }));
      checkPlanLaws(toy.source, plan);
      for (const tensor of execute(plan, toy.weights).values()) assert.ok(tensor.every(Number.isFinite));
    }
  }
});

test("the author's settings are the defaults, and short runs warm up for half of their steps", () => {
  const { source } = makeToy({ maxPositionEmbeddings: 4096 });
  const settings = (params: object) =>
    planGrowth(source, ask({ axis: "depth", factor: 2, params: params as never })).fit!.settings;
  assert.deepEqual(settings({}), {
    dataset: null,
    backend: null,
    steps: 100,
    batchTokens: 2_097_152,
    sequenceLength: 2048,
    microBatchSequences: null,
    skipTokens: null,
    learningRate: 7e-5,
    minLearningRate: 7e-5 / 10,
    warmupSteps: 50,
    weightDecay: 0.1,
    betas: [0.9, 0.95],
    clip: 1,
  });
  assert.equal(settings({ fit_steps: 7 }).warmupSteps, 3);
  assert.equal(settings({ fit_steps: 1000 }).warmupSteps, 50);
});

test("what cannot be learned or fitted is refused by field", () => {
  const { source } = makeToy();
  const refused = (request: Omit<GrowthPlanRequest, "operator">, code: string, pointer: string): void => {
    assert.throws(
      () => planGrowth(source, ask(request)),
      (error) => error instanceof CodedError && error.code === code && error.fields[0]?.pointer === pointer,
      pointer,
    );
  };
  const depth = (params: object): Omit<GrowthPlanRequest, "operator"> => ({
    axis: "depth",
    factor: 2,
    params: params as never,
  });
  refused({ axis: "depth", factor: 1 }, "unprocessable", "/factor");
  refused({ axis: "depth", params: { num_hidden_layers: 2 } }, "unprocessable", "/params/num_hidden_layers");
  refused(depth({ num_hidden_layers: 6 }), "invalid_request", "/factor");
  refused(depth({ sequence_length: 129 }), "unprocessable", "/params/sequence_length");
  refused(depth({ sequence_length: 64, batch_tokens: 100 }), "unprocessable", "/params/batch_tokens");
  refused(
    depth({ sequence_length: 64, batch_tokens: 128, micro_batch_sequences: 3 }),
    "unprocessable",
    "/params/micro_batch_sequences",
  );
  for (const params of [
    { fit_steps: -1 },
    { betas: [1, 0] },
    { betas: 1 },
    { clip: 0 },
    { dataset: 7 },
    { learning_rate: "1" },
  ]) {
    refused(depth(params), "invalid_request", `/params/${Object.keys(params)[0]}`);
  }
  assert.throws(
    () =>
      planGrowth(source, { params: { steps: [{ operator: "learn", axis: "depth", factor: 2 }] } } as GrowthPlanRequest),
    (error) => error instanceof CodedError && error.fields[0]?.pointer === "/params/steps/0/operator",
  );
});
