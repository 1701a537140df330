/** The cache of manifests holds a bounded number of tensors and forgets what was unused for longest. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ManifestCache } from "../../../src/engine/store/manifestCache.ts";
import type { Constants } from "../../../src/engine/store/manifestCache.ts";
import type { CheckpointManifest } from "../../../src/ops/manifest.ts";

const manifest = (tensors: number): Constants => {
  const held = { tensors: Array.from({ length: tensors }, () => ({})) } as unknown as CheckpointManifest;
  return { manifest: held, parents: [] };
};

test("what was unused for longest goes first, and a manifest just read stays", () => {
  const cache = new ManifestCache();
  cache.set("a", manifest(40_000));
  cache.set("b", manifest(40_000));
  assert.ok(cache.get("a"));
  cache.set("c", manifest(40_000));
  assert.equal(cache.get("b"), undefined);
  assert.ok(cache.get("a"));
  assert.ok(cache.get("c"));
});

test("the number of tensors held stays bounded whatever is put in", () => {
  const cache = new ManifestCache();
  for (let index = 0; index < 1000; index += 1) cache.set(`id${index}`, manifest(1_000));
  assert.equal(cache.size, 100);
  cache.set("huge", manifest(500_000));
  assert.equal(cache.size, 1);
  cache.set("huge", manifest(500_000));
  assert.equal(cache.size, 1);
});
