import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { MersenneTwister } from "../../../src/engine/eval/mersenneTwister.ts";
import type { MetricName, ScoreItem } from "../../../src/engine/eval/metrics.ts";
import { argmax, bootstrapStderr, metrics, perplexity, standardError } from "../../../src/engine/eval/metrics.ts";
import { needsShared, sharedReference } from "../../helpers/shared.ts";

const goldenPath = sharedReference("eval-golden.json");
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const golden: any = goldenPath === null ? null : JSON.parse(readFileSync(goldenPath, "utf8"));

function finish<T>(steps: Generator<number, T>): T {
  let step = steps.next();
  while (!step.done) step = steps.next();
  return step.value;
}

function unweighted(list: readonly number[]): ScoreItem[] {
  return list.map((value) => ({ value, weight: 1 }));
}

test("the random numbers are CPython's", () => {
  // random.Random(0), three draws; also printed by any Python.
  const random = new MersenneTwister(0);
  assert.deepEqual(
    [random.random(), random.random(), random.random()],
    [0.8444218515250481, 0.7579544029403025, 0.420571580830845],
  );
  // random.Random(1) and random.Random(99): the seed matters.
  assert.equal(new MersenneTwister(1).random(), 0.13436424411240122);
  assert.equal(new MersenneTwister(99).random(), 0.40397807494366633);
});

test("choices drawn with replacement are those of random.choices", needsShared(goldenPath), () => {
  const random = new MersenneTwister(0);
  const draws = [0, 1, 2].map(() => Array.from({ length: 5 }, () => Math.floor(random.random() * 5)));
  assert.deepEqual(draws, golden.stderr.first_choices_seed0_k5_indices);
});

test("mean, perplexity and their standard errors equal the harness to the last bit", needsShared(goldenPath), () => {
  const { stderr } = golden;
  const items = unweighted(stderr.acc_items);
  assert.equal(metrics.acc.aggregate(items), stderr.mean);
  assert.equal(finish(standardError("acc", items, 100)), stderr.mean_stderr);
  assert.equal(perplexity(stderr.lambada_lls), stderr.perplexity);
  assert.equal(finish(bootstrapStderr(stderr.lambada_lls, perplexity, 2000)), stderr.perplexity_stderr_iters_2000);
  const all = finish(standardError("perplexity", unweighted(stderr.lambada_lls), 100_000));
  assert.equal(all, stderr.perplexity_stderr_iters_100000);
});

test("weighted perplexities equal the harness to the last bit", needsShared(goldenPath), () => {
  const items = golden.weighted.items.map(([value, weight]: [number, number]) => ({ value, weight }));
  assert.equal(metrics.word_perplexity.aggregate(items), golden.weighted.word_ppl);
  assert.equal(metrics.bits_per_byte.aggregate(items), golden.weighted.bits_per_byte);
});

test("there is no standard error for one doc, without a bootstrap, or for a weighted metric", () => {
  assert.equal(finish(standardError("acc", unweighted([1]), 1000)), "N/A");
  assert.equal(finish(standardError("perplexity", unweighted([-1, -2]), 0)), "N/A");
  for (const name of ["word_perplexity", "byte_perplexity", "bits_per_byte"] satisfies MetricName[]) {
    assert.equal(finish(standardError(name, unweighted([-1, -2]), 1000)), "N/A");
  }
});

test("left-over bootstrap iterations are dropped", () => {
  const sample = [-1, -2, -3.5];
  assert.equal(finish(bootstrapStderr(sample, perplexity, 2999)), finish(bootstrapStderr(sample, perplexity, 2000)));
  assert.notEqual(finish(bootstrapStderr(sample, perplexity, 999)), finish(bootstrapStderr(sample, perplexity, 1000)));
});

test("argmax takes the first of equals, and the first NaN, as numpy does", () => {
  assert.equal(argmax([-3, -1, -1]), 1);
  assert.equal(argmax([-3, Number.NaN, 5, Number.NaN]), 1);
  assert.equal(argmax([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]), 0);
  assert.equal(argmax([Number.NEGATIVE_INFINITY, -1]), 1);
});
