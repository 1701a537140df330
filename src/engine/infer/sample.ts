/**
 * How the next token is chosen from a row of logits: greedily, or drawn from the softmax at a temperature,
 * cut to its nucleus (Holtzman et al. 2020, arXiv:1904.09751, section 3.1). A draw takes exactly one uniform
 * number, so a seed names one text on every machine whose logits agree.
 */
import type { LogitRow } from "./logitRow.ts";
import { scaleOf } from "./logitRow.ts";
import { blockWeights, rowPeak } from "./logprobs.ts";
import { blockIds, expOf } from "../kernels/inference/rowBlocks.ts";

export interface SampleSettings {
  /** 0 = greedy. */
  readonly temperature: number;
  /** Mass of the nucleus, in (0, 1]; 1 = no cut. */
  readonly topP: number;
}

/**
 * @param uniform a number in [0, 1) per call; called once per draw, never when greedy
 * @returns the chosen id; greedy: the first id with the highest logit
 * @throws diverged when the logits are not finite
 */
export function sample(row: LogitRow, { temperature, topP }: SampleSettings, uniform: () => number): number {
  const { argmax, max } = rowPeak(row);
  if (temperature === 0) return argmax;
  const scale = scaleOf(temperature);
  const weights = blockWeights(row.blocks(temperature), max, scale);
  let total = 0;
  for (const weight of weights) total += weight;
  const draw = uniform();
  if (topP >= 1) return pickOfAll(row, scale, max, weights, draw * total);
  return pickOfNucleus(row, scale, max, topP * total, draw);
}

/** Walks the blocks in order until the running mass passes `target`, then the ids of the one that does. */
function pickOfAll(row: LogitRow, scale: number, max: number, weights: Float64Array, target: number): number {
  const lastWithMass = weights.findLastIndex((weight) => weight > 0);
  let mass = 0;
  let at = lastWithMass;
  for (let block = 0; block < weights.length; block++) {
    const weight = weights[block]!;
    if (weight === 0) continue;
    at = block;
    if (target < mass + weight || block === lastWithMass) break;
    mass += weight;
  }
  // Rounding can leave the target a hair above the sum of all, or of the block's own ids: the last with mass is meant.
  return pickOfBlock(row, at, scale, max, target - mass);
}

/** @returns the id of the block at which the running mass of its ids passes `target`, or its last id with any mass. */
function pickOfBlock(row: LogitRow, block: number, scale: number, max: number, target: number): number {
  const { logits } = row;
  const end = Math.min((block + 1) * blockIds, logits.length);
  let mass = 0;
  let last = block * blockIds;
  for (let id = last; id < end; id++) {
    const weight = expOf((logits[id]! - max) * scale);
    if (weight === 0) continue;
    mass += weight;
    last = id;
    if (target < mass) return id;
  }
  return last;
}

/** Exponents down to which the nucleus is looked for first; then twice as far, and so on. */
const firstDepth = 4;
/** At the last, e^-depth is 0. */
const lastDepth = 1024;

/**
 * Draws from the smallest set of most probable ids whose mass reaches `wanted`: the id that crosses the line belongs to
 * it, and one always does.
 */
function pickOfNucleus(row: LogitRow, scale: number, max: number, wanted: number, draw: number): number {
  const weightOf = (id: number): number => expOf((row.logits[id]! - max) * scale);
  let ids: Uint32Array;
  for (let depth = firstDepth; ; depth *= 2) {
    ids = idsFrom(row, depth < lastDepth ? max - depth / scale : -Infinity);
    if (depth >= lastDepth || ids.reduce((sum, id) => sum + weightOf(id), 0) >= wanted) break;
  }
  const order = byLogit(row.logits, ids);
  let mass = 0;
  let size = 0;
  while (size < order.length && (size === 0 || mass < wanted)) mass += weightOf(order[size++]!);
  const target = draw * mass;
  let passed = 0;
  let last = order[0]!;
  for (const id of order.subarray(0, size)) {
    const weight = weightOf(id);
    if (weight === 0) continue;
    passed += weight;
    last = id;
    if (target < passed) break;
  }
  return last;
}

/** @returns the ids whose logit is at least `least`, in order. */
function idsFrom(row: LogitRow, least: number): Uint32Array {
  const { logits } = row;
  const { maxima } = row.blocks();
  const found = new Uint32Array(logits.length);
  let count = 0;
  for (let block = 0; block < maxima.length; block++) {
    if (maxima[block]! < least) continue;
    const end = Math.min((block + 1) * blockIds, logits.length);
    for (let id = block * blockIds; id < end; id++) if (logits[id]! >= least) found[count++] = id;
  }
  return found.subarray(0, count);
}

/** @returns the ids by falling logit, the lower id first among equals. */
function byLogit(logits: Float32Array, ids: Uint32Array): Uint32Array {
  // Numbers are sorted much faster than by a function: so one double for both. Its upper bits fall as the logit rises
  // (a float's bits rise with it), its lower ones are the id; as an integer of 62 bits it is a finite double.
  const keys = new Float64Array(ids.length);
  const words = new Uint32Array(keys.buffer);
  const value = new Float32Array(1);
  const bits = new Int32Array(value.buffer);
  ids.forEach((id, i) => {
    value[0] = logits[id]! + 0;
    const rising = bits[0]! ^ ((bits[0]! >> 31) & 0x7fffffff);
    const falling = 0x7fffffff - rising;
    words[2 * i] = (falling << idBits) | id;
    words[2 * i + 1] = falling >>> (32 - idBits);
  });
  keys.sort();
  return ids.map((_, i) => words[2 * i]! & ((1 << idBits) - 1));
}

/** A vocabulary has at most 2^22 ids. */
const idBits = 22;
