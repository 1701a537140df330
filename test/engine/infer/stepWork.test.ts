/** Which steps are shared by threads: those that were measured to gain by it, and no others of note. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isWorthSharing } from "../../../src/engine/infer/stepWork.ts";

function model(hiddenSize: number, layers: number, intermediateSize: number, vocabSize: number, numHeads = 4) {
  const heads = { numHeads, numKeyValueHeads: numHeads, headDim: hiddenSize / numHeads };
  return { hiddenSize, intermediateSize, ...heads, layers: { length: layers }, head: { outputs: vocabSize } };
}

/** Sequences that have `offset` positions and get `rows` more, logits for the last of each. */
function step(count: number, rows = 1, offset = 32) {
  return { sequences: Array.from({ length: count }, () => ({ rows, offset, pages: 0 })), wanted: { length: count } };
}

const [tiny, small, deep, middle, s] = [
  model(64, 5, 172, 512),
  model(128, 4, 344, 2048),
  model(128, 12, 344, 2048),
  model(192, 6, 512, 2048),
  model(256, 6, 688, 4096),
] as const;

test("a token of few sequences of a tiny model is computed by one thread, and of a larger one by all", () => {
  for (const one of [tiny, small, deep, middle]) assert.equal(isWorthSharing(one, step(1)), false);
  assert.equal(isWorthSharing(s, step(1)), true);
  assert.equal(isWorthSharing(tiny, step(8)), false);
  for (const one of [small, deep, middle]) assert.equal(isWorthSharing(one, step(8)), true);
});

test("prompts, scoring and long contexts are shared whatever the model", () => {
  assert.equal(isWorthSharing(tiny, step(1, 32)), true);
  assert.equal(isWorthSharing(tiny, step(16, 64)), true);
  assert.equal(isWorthSharing(tiny, step(16, 1, 512)), true, "attention counts");
  assert.equal(isWorthSharing(model(64, 2, 172, 128_256), step(1)), true, "the head counts");
});
