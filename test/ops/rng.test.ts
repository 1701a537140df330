import assert from "node:assert/strict";
import { test } from "node:test";
import { seededStream, xoshiro128 } from "../../src/ops/rng.ts";

test("a stream is a function of seed and name: draws are pinned, so a change of generator is noticed", () => {
  const stream = seededStream(42, "model.embed_tokens.weight");
  const draws = { words: [stream.uint32(), stream.uint32()], normals: [stream.normal(), stream.normal()] };
  const again = seededStream(42, "model.embed_tokens.weight");
  assert.deepEqual({ words: [again.uint32(), again.uint32()], normals: [again.normal(), again.normal()] }, draws);
  assert.deepEqual(draws, pinned);
});

const pinned = { words: [2402547221, 4208586579], normals: [-2.642444633784649, 1.3724691891123277] };

test("the generator gives the published outputs of xoshiro128** from state 1, 2, 3, 4", () => {
  const next = xoshiro128([1, 2, 3, 4]);
  const published = [
    11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
  ];
  assert.deepEqual(
    published.map(() => next()),
    published,
  );
});

test("another seed, another name, or a seed that differs above 2^32 gives another stream", () => {
  const first = (seed: number, name: string): number[] => {
    const stream = seededStream(seed, name);
    return [stream.uint32(), stream.uint32(), stream.uint32()];
  };
  const streams = [
    [0, "a"],
    [1, "a"],
    [2 ** 32, "a"],
    [0, "b"],
    [0, "aa"],
    [0, ""],
    [2 ** 53 - 1, "a"],
  ] as const;
  const seen = new Set(streams.map(([seed, name]) => String(first(seed, name))));
  assert.equal(seen.size, streams.length);
});

test("uniform draws lie in [0, 1) and fill it evenly", () => {
  const stream = seededStream(7, "uniform");
  const bins = new Array<number>(16).fill(0);
  for (let i = 0; i < 160_000; i += 1) {
    const value = stream.uniform();
    assert.ok(value >= 0 && value < 1);
    bins[Math.floor(value * 16)]! += 1;
  }
  const chiSquare = bins.reduce((total, count) => total + (count - 10_000) ** 2 / 10_000, 0);
  assert.ok(chiSquare < 37.7, `chi-square ${chiSquare} of 15 degrees of freedom`); // 0.1 % level
});

test("normal draws have the moments and tails of the normal distribution", () => {
  const stream = seededStream(7, "normal");
  const count = 400_000;
  const sums = [0, 0, 0, 0];
  let beyondTwo = 0;
  for (let i = 0; i < count; i += 1) {
    const value = stream.normal();
    for (let power = 1; power <= 4; power += 1) sums[power - 1]! += value ** power;
    if (Math.abs(value) > 2) beyondTwo += 1;
  }
  const [mean, variance, skew, kurtosis] = sums.map((total) => total / count) as [number, number, number, number];
  assert.ok(Math.abs(mean) < 0.007 && Math.abs(variance - 1) < 0.01, `mean ${mean}, variance ${variance}`);
  assert.ok(Math.abs(skew) < 0.03 && Math.abs(kurtosis - 3) < 0.06, `skew ${skew}, kurtosis ${kurtosis}`);
  assert.ok(Math.abs(beyondTwo / count - 0.0455) < 0.002, `share beyond 2: ${beyondTwo / count}`);
});

test("normal(mean, std) and fillNormal scale the same draws", () => {
  const plain = seededStream(3, "x");
  const scaled = seededStream(3, "x");
  const filled = seededStream(3, "x").fillNormal(new Float32Array(8), 0.5);
  for (const value of filled) {
    const draw = plain.normal();
    assert.equal(scaled.normal(1, 0.5), 1 + 0.5 * draw);
    assert.equal(value, Math.fround(0.5 * draw));
  }
});

test("the own logarithm agrees with the engine's: polar draws recomputed with Math.log are within 1e-12", () => {
  const stream = seededStream(11, "log");
  const words = seededStream(11, "log");
  for (let i = 0; i < 2_000; i += 1) {
    let x = 0;
    let y = 0;
    let square = 1;
    while (square >= 1) {
      x = ((words.uint32() | 0) + 0.5) * 2 ** -31;
      y = ((words.uint32() | 0) + 0.5) * 2 ** -31;
      square = x * x + y * y;
    }
    const scale = Math.sqrt((-2 * Math.log(square)) / square);
    assert.ok(Math.abs(stream.normal() - x * scale) < 1e-12);
    assert.ok(Math.abs(stream.normal() - y * scale) < 1e-12);
  }
});

test("below(n) is even over [0, n) and refuses what is no count", () => {
  const stream = seededStream(5, "below");
  const counts = new Array<number>(7).fill(0);
  for (let i = 0; i < 70_000; i += 1) counts[stream.below(7)]! += 1;
  assert.ok(
    counts.every((count) => Math.abs(count - 10_000) < 400),
    String(counts),
  );
  assert.equal(stream.below(1), 0);
  for (const n of [0, -1, 1.5, 2 ** 32 + 1, Number.NaN]) assert.throws(() => stream.below(n), /below/);
});

test("a seed outside [0, 2^53) is refused", () => {
  for (const seed of [-1, 0.5, 2 ** 53, Number.NaN]) assert.throws(() => seededStream(seed, "x"), /seed/);
});
