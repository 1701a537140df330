/** What moves after a growth: gradients by finite differences of the double-precision reference. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { planGrowth, type GrowthPlan } from "../../../src/ops/growth/index.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { execute, inDouble, makeToy, toyIds } from "../helpers/models.ts";
import { referenceForward } from "../helpers/referenceForward.ts";

type Model = Map<string, Float64Array>;

/** Mean next-token cross-entropy of the toy's ids. */
function loss(plan: GrowthPlan, weights: Model): number {
  const logits = referenceForward(plan.targetConfig, weights, toyIds);
  const nats = toyIds.slice(1).map((id, t) => {
    const row = logits[t]!;
    const top = Math.max(...row);
    return Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0)) + top - row[id]!;
  });
  return nats.reduce((sum, value) => sum + value, 0) / nats.length;
}

/** Derivative of the loss along a random direction within the chosen elements of one tensor. */
function slope(plan: GrowthPlan, weights: Model, name: string, chosen: (at: number) => boolean): number {
  const stream = seededStream(1, name);
  const direction = weights.get(name)!.map((_, at) => (chosen(at) ? stream.normal() : 0));
  const moved = (step: number): number => {
    const values = weights.get(name)!.map((value, at) => value + step * direction[at]!);
    return loss(plan, new Map(weights).set(name, values));
  };
  return (moved(1e-4) - moved(-1e-4)) / 2e-4;
}

test("invariant 4: in a new zero layer only the attention output and the down projection have a gradient", () => {
  const toy = makeToy();
  const plan = planGrowth(toy.source, { operator: "zero", axis: "depth", factor: 2 });
  const weights = execute(plan, inDouble(toy.weights));
  for (const layer of plan.newLayers) {
    for (const name of weights.keys()) {
      if (!name.startsWith(`model.layers.${layer}.`)) continue;
      const gradient = slope(plan, weights, name, () => true);
      if (/o_proj|down_proj/.test(name)) assert.ok(Math.abs(gradient) > 1e-4, `${name}: ${gradient}`);
      else assert.equal(gradient, 0, name);
    }
  }
});

interface Block {
  readonly name: string;
  readonly block: string;
  readonly chosen: (at: number) => boolean;
}

/**
 * The 18 new blocks of a doubled toy, of layer 1 and the model's own: of each matrix its new rows, and the new columns
 * of its old rows; the new columns of the embedding and of the head; the new entries of the layer's two norms.
 */
function newBlocks(): Block[] {
  const sizes: [name: string, rows: number, columns: number][] = [
    ["self_attn.q_proj", 32, 32],
    ["self_attn.k_proj", 16, 32],
    ["self_attn.v_proj", 16, 32],
    ["self_attn.o_proj", 32, 32],
    ["mlp.gate_proj", 48, 32],
    ["mlp.up_proj", 48, 32],
    ["mlp.down_proj", 32, 48],
  ];
  const layer = "model.layers.1.";
  const matrices = sizes.flatMap(([short, rows, columns]): Block[] => {
    const isNewRow = (at: number): boolean => Math.floor(at / (2 * columns)) >= rows;
    const isNewColumn = (at: number): boolean => at % (2 * columns) >= columns;
    const name = `${layer}${short}.weight`;
    return [
      { name, block: `${short} new rows`, chosen: isNewRow },
      { name, block: `${short} new columns`, chosen: (at) => !isNewRow(at) && isNewColumn(at) },
    ];
  });
  const tables = ["model.embed_tokens.weight", "lm_head.weight"];
  const norms = [`${layer}input_layernorm.weight`, `${layer}post_attention_layernorm.weight`];
  return [
    ...matrices,
    ...tables.map((name) => ({ name, block: `${name} new columns`, chosen: (at: number) => at % 64 >= 32 })),
    ...norms.map((name) => ({ name, block: `${name} new entries`, chosen: (at: number) => at >= 32 })),
  ];
}

test("invariant 12: one zero per path: 13 of 18 new blocks have no gradient at first, 0 of 18 after one step", () => {
  const toy = makeToy();
  const plan = planGrowth(toy.source, { operator: "zero", axis: "width", factor: 2, seed: 2 });
  const weights = execute(plan, inDouble(toy.weights));
  const blocks = newBlocks();
  assert.equal(blocks.length, 18);
  const still = blocks.filter(({ name, chosen }) => Math.abs(slope(plan, weights, name, chosen)) < 1e-9);
  assert.equal(still.length, 13, still.map(({ block }) => block).join(", "));
  // A step moves just what has a gradient.
  const stepped: Model = new Map(weights);
  const stream = seededStream(3, "step");
  for (const name of weights.keys()) {
    const kept = still.filter((block) => block.name === name);
    const moved = weights
      .get(name)!
      .map((value, at) => (kept.some(({ chosen }) => chosen(at)) ? value : value + 0.03 * stream.normal()));
    stepped.set(name, moved);
  }
  const dead = blocks.filter(({ name, chosen }) => Math.abs(slope(plan, stepped, name, chosen)) < 1e-9);
  assert.deepEqual(
    dead.map(({ block }) => block),
    [],
  );
});

test("invariant 15: an even split gives copies equal gradients, an elementwise one does not", () => {
  const toy = makeToy();
  const gradients = (split: string): [number, number] => {
    const plan = planGrowth(toy.source, { operator: "direct", axis: "width", factor: 2, params: { split } });
    const weights = execute(plan, inDouble(toy.weights));
    const gate = "model.layers.0.mlp.gate_proj.weight"; // rows 0 and 48 are copies, and so are columns 5 and 37
    return [5, 48 * 64 + 37].map((element) => slope(plan, weights, gate, (at) => at === element)) as [number, number];
  };
  // One element is chosen, so its direction is the stream's first draw: the same factor for both.
  const apart = ([first, copy]: [number, number]): number => Math.abs(first - copy) / Math.abs(first);
  assert.ok(apart(gradients("even")) < 1e-5, String(gradients("even")));
  assert.ok(apart(gradients("elementwise")) > 0.01, String(gradients("elementwise")));
});
