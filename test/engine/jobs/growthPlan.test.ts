/** Executing a growth plan: copies are references, built tensors are written once, and promises are held to. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { planGrowth, type GrowthPlan, type Recipe } from "../../../src/ops/growth/index.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { readTensor } from "../../../src/engine/checkpoint/tensorReader.ts";
import { buildTensors } from "../../../src/engine/growth/growTensors.ts";
import { assertPreserved, buildsTensors, grownManifest, growthReceipt } from "../../../src/engine/jobs/growthPlan.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";
import { temporaryFolder } from "../store/fixtures.ts";

const request = { checkpoint: "c", operator: "direct", axis: "depth", factor: 2 } as const;
const query = (layer: number): string => `model.layers.${layer}.self_attn.q_proj.weight`;

/** The G_stack plan with two of its tensors built instead: one doubled, one the same as that. */
function mixedPlan(plan: GrowthPlan): GrowthPlan {
  const double: Recipe = { type: "build", inputs: [query(0)], build: ([values]) => values!.map((value) => 2 * value) };
  const recipes = new Map<string, Recipe>([
    [query(2), double],
    [query(3), { ...double, sameAs: query(2) }],
  ]);
  return {
    ...plan,
    tensors: plan.tensors.map((tensor) => ({ ...tensor, recipe: recipes.get(tensor.info.name) ?? tensor.recipe })),
  };
}

test("built tensors go into new blobs, twins refer to it, and all else refers to the source", async (t) => {
  const blobDir = temporaryFolder();
  const { checkpoint, remove } = tinyCheckpoint();
  t.after(() => (remove(), rmSync(blobDir, { recursive: true })));
  const plan = mixedPlan(planGrowth(checkpoint.manifest, request));
  assert.equal(buildsTensors(plan), true);
  const { tensors, blobs: made } = await buildTensors(plan, checkpoint, blobDir, {});
  assert.deepEqual(
    tensors.map((tensor) => tensor.name),
    [query(2)],
  );
  assert.equal(made.length, 1);
  const blob = made[0]!;
  const manifest = grownManifest(checkpoint.manifest, plan, tensors, null);
  const blobs = { ...checkpoint.blobs, [blob.digest]: blobLocation(blobDir, blob) };
  const grown = { id: "g", manifest, blobs };
  const source = await readTensor(checkpoint, query(0));
  assert.deepEqual(
    await readTensor(grown, query(2)),
    source.map((value) => 2 * value),
  );
  assert.deepEqual(await readTensor(grown, query(3)), await readTensor(grown, query(2)));
  assert.deepEqual(await readTensor(grown, query(1)), await readTensor(checkpoint, query(1)));
  const own = manifest.tensors.filter((tensor) => tensor.blob === blob.digest).map((tensor) => tensor.name);
  assert.deepEqual(own, [query(2), query(3)]);
  assert.deepEqual(
    manifest.tensors.map((tensor) => tensor.name),
    plan.tensors.map(({ info }) => info.name),
  );
  assert.equal(manifest.configJson["num_hidden_layers"], 4);
  assert.equal(manifest.tokenizer, "bytes");
});

test("a plan that only copies builds nothing and makes no blob directory", async (t) => {
  const { checkpoint, remove } = tinyCheckpoint();
  const folder = temporaryFolder();
  t.after(() => (remove(), rmSync(folder, { recursive: true })));
  const plan = planGrowth(checkpoint.manifest, request);
  assert.equal(buildsTensors(plan), false);
  const nowhere = join(folder, "nowhere");
  assert.deepEqual(await buildTensors(plan, checkpoint, nowhere, {}), { tensors: [], blobs: [], optimizer: null });
});

test("a growth declared preserving that changed a logit beyond its tolerance is refused, and no other", () => {
  const { checkpoint, remove } = tinyCheckpoint();
  remove();
  const plan = planGrowth(checkpoint.manifest, request);
  const preserving: GrowthPlan = { ...plan, preservesFunction: { value: true, reason: "by proof", tolerance: 1e-3 } };
  const measured = (change: number) => ({
    measured: { maxAbsLogitChange: change, rmsLogitChange: change / 2, dtype: "float32" as const, probeTokens: 64 },
  });
  const isFailure = (error: unknown) => error instanceof CodedError && error.code === "verification_failed";
  assert.throws(() => assertPreserved(preserving, measured(2e-3)), isFailure);
  assertPreserved(preserving, measured(1e-3));
  assertPreserved(preserving, { skipped: "not asked for" });
  assertPreserved(plan, measured(9));
  const receipt = growthReceipt(request, preserving, "d", measured(1e-4));
  assert.equal(receipt["max_abs_logit_change"], 1e-4);
  assert.equal(receipt["verification_skipped"], null);
  assert.equal(growthReceipt(request, plan, "d", { skipped: "too large" })["verification_skipped"], "too large");
});
