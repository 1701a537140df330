/** What a model is said to take before it is loaded, beside what it takes: from above, and not by much. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import { estimateServingMemory, weightBytes } from "../../../src/engine/infer/servingMemory.ts";
import { evaluationBytes } from "../../../src/engine/jobs/evaluationPlan.ts";
import type { CacheDtype } from "../../../src/ops/cacheDtype.ts";
import { estimateFootprint } from "../../../src/engine/serving/footprint.ts";
import type { WorkerBackend } from "../../../src/engine/store/workerTypes.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

// The library chooses its kernels itself, whatever this machine was told.
delete process.env["OPENBLAS_CORETYPE"];
/** No size is a whole panel. */
const config = { vocabSize: 701, hiddenSize: 72, intermediateSize: 212, numAttentionHeads: 9, numKeyValueHeads: 3 };
const models = (["F32", "BF16"] as const).map((dtype) => tinyCheckpoint({ id: `ckpt_${dtype}`, dtype, config }));
after(() => {
  for (const { remove } of models) remove();
});
const [whole, half] = models.map(({ checkpoint }) => checkpoint) as [
  (typeof models)[0]["checkpoint"],
  (typeof models)[0]["checkpoint"],
];

for (const [name, skip] of [
  ["cpu", false],
  ["wasm", false],
  ["native", (await missingBlas()) ?? false],
  ["webgpu", (await missingGpu()) ?? false],
] as const) {
  test(`${name}: weights take what was said, in 32 and in 16 bits`, { skip }, async () => {
    const backend = getBackend(name);
    for (const checkpoint of [whole, half]) {
      const said = weightBytes(checkpoint.manifest, backend.keepsHalf);
      const model = await backend.load(checkpoint);
      const { memoryBytes } = model;
      model.close();
      assert.ok(memoryBytes <= said && said <= 1.08 * memoryBytes, `${checkpoint.id}: ${memoryBytes}, said ${said}`);
    }
  });
}

test("matrices of bfloat16 count half where they stay in 16 bits, but not those that a growth masks", () => {
  const [kept, widened] = [weightBytes(half.manifest, true), weightBytes(half.manifest, false)];
  assert.ok(kept < 0.52 * widened && kept > 0.48 * widened);
  assert.equal(weightBytes(whole.manifest, true), widened);
  // The second layer is being faded in: its two matrices that write to the stream are masked.
  const growthMask = { step: 1, rampSteps: 10, stages: 1, layers: [1], sourceSizes: null } as const;
  const masked = weightBytes({ ...half.manifest, growthMask }, true);
  const [panels, inputs] = [Math.ceil(config.hiddenSize / 16) * 16, 9 * 8 + config.intermediateSize];
  assert.equal(masked - kept, 2 * panels * inputs);
});

test("a footprint counts the weights as its backend keeps them, and more requests fit beside them", () => {
  const limits = { maxActive: 1000, maxCacheBytes: 2 ** 30, maxMemoryBytes: 194 * 2 ** 20, cacheDtype: "F32" } as const;
  const [kept, widened] = [true, false].map((keepsHalf) => estimateFootprint(half.manifest, limits, keepsHalf));
  assert.ok(kept!.bytes <= limits.maxMemoryBytes && widened!.bytes <= limits.maxMemoryBytes);
  assert.ok(kept!.positions > widened!.positions);
});

test("a budget of caches holds twice the positions in bfloat16, on backends that keep it", () => {
  const { maxPositionEmbeddings, numHiddenLayers, numKeyValueHeads, headDim } = half.manifest.config;
  const contextBytes =
    2 * 4 * Math.ceil(maxPositionEmbeddings / 64) * 64 * numHiddenLayers * numKeyValueHeads * headDim;
  const limits = { maxActive: 1000, maxCacheBytes: 3 * contextBytes, maxMemoryBytes: 2 ** 40 };
  const positions = (cacheDtype: CacheDtype, keepsHalf: boolean): number =>
    estimateFootprint(half.manifest, { ...limits, cacheDtype }, keepsHalf).positions;
  assert.equal(positions("BF16", true), 2 * positions("F32", true));
  assert.equal(positions("BF16", false), positions("F32", false));
});

test("an evaluation is said to need what the backend that scores it needs", () => {
  const row = { manifest: half.manifest };
  const [kept, widened] = [true, false].map((keepsHalf) => estimateServingMemory(half.manifest, keepsHalf)) as [
    number,
    number,
  ];
  const request = (backend?: string) => ({ checkpoint: "x", tasks: ["piqa"], ...(backend ? { backend } : {}) });
  const found = (name: string, preference: number, memoryBytes: number | null): WorkerBackend => {
    return { name, preference, available: true, automatic: true, reason: null, device: null, memoryBytes };
  };
  assert.ok(kept < widened);
  assert.equal(evaluationBytes(request("wasm"), row, null), kept);
  assert.equal(evaluationBytes(request("webgpu"), row, null), widened);
  assert.equal(evaluationBytes(request(), row, null), kept);
  const wasm = found("wasm", 10, 2 * kept);
  assert.equal(evaluationBytes(request(), row, [wasm]), kept);
  assert.equal(evaluationBytes(request(), row, [wasm, found("webgpu", 30, 4 * widened)]), kept);
});
