/** Samples of CPython 3.11.7: `random.Random(seed).sample(range(population), count)`, the first and the second. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MersenneTwister } from "../../../src/engine/eval/mersenneTwister.ts";
import { sampleIndices } from "../../../src/engine/eval/pythonRandom.ts";

const golden: readonly (readonly [number, number, number, readonly number[], readonly number[]])[] = [
  [1234, 3, 3, [1, 0, 2], [0, 2, 1]],
  [1234, 21, 5, [14, 3, 0, 2, 1], [2, 3, 11, 7, 0]],
  [1234, 22, 5, [14, 3, 0, 2, 18], [1, 21, 2, 3, 11]],
  [1234, 85, 6, [56, 14, 0, 11, 74, 4], [10, 12, 45, 30, 2, 3]],
  [1234, 86, 6, [56, 14, 0, 11, 74, 4], [85, 10, 12, 45, 30, 2]],
  [0, 100, 10, [49, 97, 53, 5, 33, 65, 62, 51, 38, 61], [45, 74, 27, 64, 17, 36, 96, 12, 79, 32]],
  [
    1234,
    276,
    25,
    [225, 59, 3, 46, 17, 42, 50, 181, 121, 8, 15, 266, 177, 247, 237, 76, 272, 93, 58, 7, 249, 275, 262, 63, 16],
    [238, 35, 45, 263, 23, 138, 32, 154, 246, 181, 136, 127, 102, 232, 9, 260, 36, 2, 170, 73, 242, 168, 96, 42, 13],
  ],
  [
    1234,
    278,
    25,
    [225, 59, 3, 46, 17, 42, 50, 181, 121, 8, 15, 177, 247, 237, 76, 93, 58, 7, 257, 249, 127, 33, 277, 238, 35],
    [45, 263, 23, 138, 32, 154, 246, 181, 136, 127, 102, 232, 271, 9, 260, 36, 2, 170, 73, 242, 193, 85, 27, 39, 254],
  ],
  [1234, 9427, 6, [7220, 1914, 122, 1485, 572, 1375], [1612, 5810, 3879, 285, 504, 259]],
  [
    7,
    39905,
    10,
    [21222, 9886, 25875, 3164, 4747, 35119, 6168, 23965, 38193, 3801],
    [33255, 14070, 2457, 5632, 28419, 27405, 4578, 15772, 5944, 36113],
  ],
  [4294967295, 2147483653, 3, [872737089, 924893097, 1251276551], [1460408326, 1636881668, 1201118819]],
  [1, 1, 1, [0], [0]],
  [1, 5, 0, [], []],
];

test("samples equal CPython's, on both sides of the sizes at which it changes its way", () => {
  for (const [seed, population, count, first, second] of golden) {
    const random = new MersenneTwister(seed);
    assert.deepEqual(sampleIndices(random, population, count), first, `${count} of ${population}, seed ${seed}`);
    assert.deepEqual(sampleIndices(random, population, count), second, `${count} of ${population}, seed ${seed}`);
  }
});

test("a sample larger than the population is refused", () => {
  assert.throws(() => sampleIndices(new MersenneTwister(1), 3, 4), /a sample of 4 from 3/);
});
