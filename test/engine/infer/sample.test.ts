/** The choice of a token and the arithmetic of log-probabilities, against sums done by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LogitRow } from "../../../src/engine/infer/logitRow.ts";
import { logprobOf, rowStats, tokenLogprobs, topIds } from "../../../src/engine/infer/logprobs.ts";
import { sample } from "../../../src/engine/infer/sample.ts";
import type { SampleSettings } from "../../../src/engine/infer/sample.ts";
import { seededStream } from "../../../src/ops/rng.ts";

const rowOf = (...logits: number[]): LogitRow => new LogitRow(Float32Array.from(logits));
const never = (): number => assert.fail("greedy decoding must not draw");

test("greedy takes the first id with the highest logit", () => {
  assert.equal(sample(rowOf(1, 5, 5, 2), { temperature: 0, topP: 1 }, never), 1);
});

test("draws follow the softmax at the temperature", () => {
  const logits = rowOf(Math.log(1), Math.log(2), Math.log(5));
  const at = (temperature: number, topP: number, u: number): number => sample(logits, { temperature, topP }, () => u);
  // Masses 1/8, 2/8, 5/8 in order of id.
  assert.deepEqual(
    [0, 0.12, 0.13, 0.37, 0.38, 0.999].map((u) => at(1, 1, u)),
    [0, 0, 1, 1, 2, 2],
  );
  // At temperature 1/2 the weights are squared: 1, 4, 25 of 30.
  assert.deepEqual(
    [0.03, 0.04, 0.16, 0.17].map((u) => at(0.5, 1, u)),
    [0, 1, 1, 2],
  );
});

test("a temperature whose reciprocal is no number draws the most probable id", () => {
  const logits = rowOf(3, -Infinity, 3.0000002, 1);
  for (const temperature of [Number.MIN_VALUE, 1e-308, 1e-300]) {
    for (const topP of [1, 0.5]) {
      for (const u of [0, 0.999999])
        assert.equal(
          sample(logits, { temperature, topP }, () => u),
          2,
          `${temperature}`,
        );
    }
  }
});

test("the nucleus is the smallest set of most probable ids whose mass reaches top_p", () => {
  const logits = rowOf(Math.log(1), Math.log(2), Math.log(5));
  const at = (topP: number, u: number): number => sample(logits, { temperature: 1, topP }, () => u);
  for (const u of [0, 0.5, 0.999999]) assert.equal(at(0.5, u), 2, "5/8 reaches 0.5 alone");
  // 5/8 + 2/8 reaches 0.8: ids 2 and 1, renormalised to 5/7 and 2/7.
  assert.deepEqual(
    [0, 0.71, 0.72, 0.999].map((u) => at(0.8, u)),
    [2, 2, 1, 1],
  );
  assert.equal(at(1e-9, 0.999), 2, "one id always stays");
});

test("draws over many blocks of ids are those of one walk over all of them, with a nucleus and without", () => {
  const { uniform, fillNormal } = seededStream(7, "rows");
  for (const [vocab, spread] of [
    [1000, 1],
    [1000, 30],
    [777, 0],
  ] as const) {
    const logits = fillNormal(new Float32Array(vocab), 1).map((value) => value * spread);
    for (let i = 0; i < 40; i++) {
      const settings = { temperature: [1, 0.6, 2][i % 3]!, topP: [1, 0.9, 0.3, 0.999][i % 4]! };
      const u = uniform();
      const drawn = sample(new LogitRow(logits), settings, () => u);
      assert.equal(drawn, plainDraw([...logits], settings, u), JSON.stringify({ vocab, spread, ...settings, u }));
    }
  }
});

/** The definition: weights, the nucleus as a sorted list, one walk. */
function plainDraw(logits: readonly number[], { temperature, topP }: SampleSettings, u: number): number {
  const max = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp((logit - max) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let ids = logits.map((_, id) => id);
  if (topP < 1) {
    ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
    let mass = 0;
    ids = ids.filter((id, place) => {
      const isIn = place === 0 || mass < topP * total;
      mass += weights[id]!;
      return isIn;
    });
  }
  let left = u * ids.reduce((sum, id) => sum + weights[id]!, 0);
  return ids.find((id) => (left -= weights[id]!) < 0) ?? ids.at(-1)!;
}

test("a draw at the upper edge never picks an id without mass", () => {
  const logits = rowOf(0, 0, -1e30);
  assert.equal(
    sample(logits, { temperature: 1, topP: 1 }, () => 1 - 2 ** -53),
    1,
  );
});

test("log-probabilities are float32 values of one float64 sum, equal wherever reported", () => {
  const logits = rowOf(0.1, -2.5, 3.75, 3.5);
  const sum = logits.logits.reduce((total, x) => total + Math.exp(x), 0);
  const entry = tokenLogprobs(logits, 2, 4);
  assert.ok(Math.abs(entry.logprob - (3.75 - Math.log(sum))) < 1e-6);
  assert.equal(Math.fround(entry.logprob), entry.logprob);
  assert.deepEqual(
    entry.top.map(([id]) => id),
    [2, 3, 0, 1],
  );
  assert.equal(entry.top[0]?.[1], entry.logprob);
  const stats = rowStats(logits);
  const mass = [0, 1, 2, 3].reduce((total, id) => total + Math.exp(logprobOf(logits, stats, id)), 0);
  assert.ok(Math.abs(mass - 1) < 1e-6);
});

test("the top ids are in falling order, the lower id first among equals", () => {
  assert.deepEqual(topIds(rowOf(1, 3, 3, 2, 3), 3), [1, 2, 4]);
  assert.deepEqual(topIds(rowOf(1, 3, 3, 2, 3), 4), [1, 2, 4, 3]);
  assert.deepEqual(topIds(rowOf(1, 2), 5), [1, 0]);
  assert.deepEqual(topIds(rowOf(1, 2), 0), []);
});
