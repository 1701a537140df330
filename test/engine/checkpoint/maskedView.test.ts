/** Downloads of a checkpoint whose new parts are being faded in: the mask is folded in, exactly, or refused. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { checkpointDigest } from "../../../src/engine/checkpoint/digest.ts";
import { importedLocations } from "../../../src/engine/checkpoint/importers.ts";
import { initializeRandom } from "../../../src/engine/checkpoint/initialize.ts";
import { parseHeader, parseHeaderLength } from "../../../src/engine/checkpoint/safetensors.ts";
import { readTensor } from "../../../src/engine/checkpoint/tensorReader.ts";
import { listViewFiles, openViewFile, type ViewRange } from "../../../src/engine/checkpoint/view.ts";
import { maskOfNames, maskedValues } from "../../../src/ops/growth/index.ts";
import type { GrowthMask, ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { scratch, tinyConfig } from "./fixtures.ts";

async function masked(
  t: TestContext,
  change: (config: ResolvedCheckpoint["manifest"]["config"]) => Partial<GrowthMask>,
): Promise<ResolvedCheckpoint> {
  const blobDir = join(await scratch(t), "blobs");
  const result = await initializeRandom({ configJson: tinyConfig, seed: 7, blobDir });
  const growthMask = {
    step: 3,
    rampSteps: 7,
    stages: 1,
    layers: [],
    sourceSizes: null,
    ...change(result.manifest.config),
  } as GrowthMask;
  return { id: "ckpt_m", manifest: { ...result.manifest, growthMask }, blobs: importedLocations(result, blobDir) };
}

async function read(checkpoint: ResolvedCheckpoint, range?: ViewRange): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of await openViewFile(checkpoint, "model.safetensors", range)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const half = (config: ResolvedCheckpoint["manifest"]["config"]) => ({
  sourceSizes: {
    ...{ hiddenSize: config.hiddenSize / 2, intermediateSize: config.intermediateSize - 3, headDim: config.headDim },
    ...{ numAttentionHeads: config.numAttentionHeads, numKeyValueHeads: config.numKeyValueHeads },
  },
});

for (const [title, change] of [
  ["depth", () => ({ layers: [0] })],
  ["width", half],
] as const) {
  test(`${title}: the download holds weights times mask in float32, any range of it too, under an ETag of its own`, async (t) => {
    const checkpoint = await masked(t, change);
    const { manifest } = checkpoint;
    const file = await read(checkpoint);
    const headerBytes = parseHeaderLength(file.subarray(0, 8), file.length, "f");
    const entries = parseHeader(file.subarray(8, 8 + headerBytes), file.length, "f").tensors;
    const maskOf = maskOfNames(manifest);
    let touched = 0;
    for (const { name, offset, sizeBytes, shape } of entries) {
      const stored = await readTensor(checkpoint, name);
      const mask = maskOf(name);
      const wanted = mask === null ? stored : maskedValues(stored, shape, mask);
      const bytes = file.subarray(offset, offset + sizeBytes);
      assert.ok(bytes.equals(Buffer.from(wanted.buffer, wanted.byteOffset, wanted.byteLength)), name);
      if (!bytes.equals(Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength))) touched += 1;
    }
    assert.ok(touched >= 2);
    for (const [offset, length] of [
      [0, file.length],
      [8 + headerBytes + 1, 5],
      [file.length - 7, 7],
      [headerBytes + 3, file.length - headerBytes - 30],
    ] as const) {
      assert.ok(
        (await read(checkpoint, { offset, length })).equals(file.subarray(offset, offset + length)),
        `${offset}+${length}`,
      );
    }
    const etag = (step: number): string => {
      const growthMask = { ...manifest.growthMask!, step };
      return listViewFiles({ ...manifest, growthMask }).find(({ name }) => name === "model.safetensors")!.etag;
    };
    assert.notEqual(etag(3), etag(4));
    assert.notEqual(checkpointDigest(manifest), checkpointDigest({ ...manifest, growthMask: null }));
  });
}

test("a mask on weights that are not float32 is refused: folding would round", async (t) => {
  const checkpoint = await masked(t, () => ({ layers: [0] }));
  const tensors = checkpoint.manifest.tensors.map((tensor) => ({
    ...tensor,
    dtype: "BF16" as const,
    sizeBytes: tensor.sizeBytes / 2,
  }));
  assert.throws(() => listViewFiles({ ...checkpoint.manifest, tensors }), {
    code: "unprocessable",
    message: /faded in.*BF16/,
  });
});
