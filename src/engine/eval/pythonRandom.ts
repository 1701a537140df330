/**
 * `random.sample` of CPython over a Mersenne Twister, draw for draw: the harness picks few-shot examples with
 * it. Unbiased integers by rejection, then either a pool that shrinks or a set of what was drawn, whichever
 * CPython would take: the two give different samples. Source: CPython, `Lib/random.py`.
 */
import type { MersenneTwister } from "./mersenneTwister.ts";

/** Sizes up to which CPython copies the population: 21, and more for samples of more than five. */
const smallPopulation = 21;
const smallSample = 5;

/** @returns an integer from 0 to below `limit`, which is 1 to 2^32 - 1. */
function randomBelow(random: MersenneTwister, limit: number): number {
  const bits = 32 - Math.clz32(limit);
  for (;;) {
    const drawn = random.getRandomBits(bits);
    if (drawn < limit) return drawn;
  }
}

/**
 * @param population its size
 * @param count how many are drawn, 0 to `population`
 * @returns the indices drawn, in the order in which they were
 */
export function sampleIndices(random: MersenneTwister, population: number, count: number): number[] {
  if (count > population) throw new Error(`invariant: a sample of ${count} from ${population}`);
  const table = count > smallSample ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0;
  if (population <= smallPopulation + table) return drawFromPool(random, population, count);
  const drawn = new Set<number>();
  while (drawn.size < count) drawn.add(randomBelow(random, population));
  return [...drawn];
}

function drawFromPool(random: MersenneTwister, population: number, count: number): number[] {
  const pool = Array.from({ length: population }, (_, i) => i);
  return Array.from({ length: count }, (_, i) => {
    const at = randomBelow(random, population - i);
    const drawn = pool[at] ?? 0;
    pool[at] = pool[population - i - 1] ?? 0;
    return drawn;
  });
}
