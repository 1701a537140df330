/**
 * `cachedAttention` on the wasm heap: one call for all sequences of a step, so that a batch of short rows is not spent
 * on slicing and joining tensors. New keys and values are copied to their place, then each sequence is attended to
 * where its rows lie.
 */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import type { CachedRows, Kernels } from "../kernels.ts";
import { attentionFor } from "./causalAttention.ts";
import { requireShape } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";

const floatBytes = 4;

export function makeCachedAttention(heap: KernelHeap, c: KernelFunctions): NonNullable<Kernels["cachedAttention"]> {
  return (q_1RNH, k_1RKH, v_1RKH, sequences) => {
    const [, r, n, h] = q_1RNH.shape;
    const k = k_1RKH.shape[2];
    requireShape("cachedAttention: q", q_1RNH, [1, r, n, h]);
    requireShape("cachedAttention: k", k_1RKH, [1, r, k, h]);
    requireShape("cachedAttention: v", v_1RKH, [1, r, k, h]);
    invariant(k > 0 && n % k === 0, `cachedAttention: ${n} query heads do not share ${k} key/value heads evenly`);
    checkSequences(heap, sequences, r, [k, h]);
    const value = heap.output<tf.Tensor4D>([1, r, n, h]);
    const at = { q: heap.at(q_1RNH), k: heap.at(k_1RKH), v: heap.at(v_1RKH), out: heap.at(value) };
    attendToCaches(heap, c, at, sequences, [n, k, h]);
    return value;
  };
}

/** Addresses of the rows of all sequences: queries [R,N,H], new keys and values [R,K,H], results [R,N,H]. */
export interface AttentionRows {
  readonly q: number;
  readonly k: number;
  readonly v: number;
  readonly out: number;
}

/** `cachedAttention` on addresses; the sequences have been checked. */
export function attendToCaches(
  heap: KernelHeap,
  c: KernelFunctions,
  at: AttentionRows,
  sequences: readonly CachedRows[],
  [n, k, h]: [number, number, number],
): void {
  const most = sequences.reduce((rows, sequence) => Math.max(rows, sequence.rows), 0);
  const scratchFloats = c.attention_forward_scratch_floats(most, n, k, h);
  // Behind the scratch, the logarithms of the sums, which nobody needs here.
  const scratch = heap.scratch(scratchFloats + most * n);
  const sums = scratch + scratchFloats * floatBytes;
  let { q: queries, out: results } = at;
  const bytes = new Uint8Array(heap.memory.buffer);
  const positionBytes = k * h * floatBytes;
  let first = 0;
  for (const { keys, values, offset, rows } of sequences) {
    const [keysAt, valuesAt] = [heap.at(keys), heap.at(values)];
    const [from, to] = [first * positionBytes, offset * positionBytes];
    bytes.copyWithin(keysAt + to, at.k + from, at.k + from + rows * positionBytes);
    bytes.copyWithin(valuesAt + to, at.v + from, at.v + from + rows * positionBytes);
    const attend = attentionFor(c, rows);
    attend(1, rows, keys.shape[1], n, k, h, offset, queries, keysAt, valuesAt, results, sums, scratch);
    first += rows;
    queries += rows * n * h * floatBytes;
    results += rows * n * h * floatBytes;
  }
}

/** Fails unless the sequences have `rows` rows in all, each with room in tensors that are its alone. */
export function checkSequences(
  heap: KernelHeap,
  sequences: readonly CachedRows[],
  rows: number,
  tail: [number, number],
): void {
  let sum = 0;
  for (const { keys, values, offset, rows: own } of sequences) {
    const s = keys.shape[1];
    requireShape("cachedAttention: keys", keys, [1, s, ...tail]);
    requireShape("cachedAttention: values", values, [1, s, ...tail]);
    const fits = own > 0 && offset >= 0 && offset + own <= s;
    invariant(fits, `cachedAttention: ${own} rows at ${offset} do not fit ${s} positions`);
    const alone = heap.owners(keys) === 1 && heap.owners(values) === 1;
    invariant(alone, "cachedAttention: another tensor shares the bytes of a cache");
    sum += own;
  }
  invariant(sum === rows, `cachedAttention: the sequences have ${sum} rows, wanted ${rows}`);
}
