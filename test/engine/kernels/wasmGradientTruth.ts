/**
 * Gradients of the three kernels that work in blocks, in float64 from their formulas: finite differences, which
 * the contract suite uses, would take minutes at the sizes that cross a block's edge.
 */
import type { AttentionSizes, Values } from "./kernelTruth.ts";
import { linearTruth } from "./kernelTruth.ts";

/** @returns x[rows, columns] turned over its diagonal. */
export function transposed(x: Values, rows: number, columns: number): Values {
  return Float64Array.from({ length: x.length }, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]!);
}

/** dx = dy w and dw = dy^T x. */
export function linearGradients(x: Values, w: Values, dy: Values, r: number, i: number, o: number): Values[] {
  const dx = linearTruth(dy, transposed(w, o, i), null, r, o, i);
  const dw = linearTruth(transposed(dy, r, o), transposed(x, r, i), null, o, r, i);
  return [dx, dw];
}

/** dq, dk, dv where all keys belong to the queries (offset 0). */
export function attentionGradients(q: Values, k: Values, v: Values, dOut: Values, z: AttentionSizes): Values[] {
  const [dq, dk, dv] = [new Float64Array(q.length), new Float64Array(k.length), new Float64Array(v.length)];
  const scale = 1 / Math.sqrt(z.headDim);
  const dot = (a: Values, i: number, b: Values, j: number): number => {
    let sum = 0;
    for (let h = 0; h < z.headDim; h++) sum += a[i + h]! * b[j + h]!;
    return sum;
  };
  const add = (to: Values, i: number, from: Values, j: number, factor: number): void => {
    for (let h = 0; h < z.headDim; h++) to[i + h]! += from[j + h]! * factor;
  };
  for (let row = 0; row < z.batch * z.queries * z.heads; row++) {
    const [n, t, b] = [row % z.heads, Math.floor(row / z.heads) % z.queries, Math.floor(row / z.heads / z.queries)];
    const at = row * z.headDim;
    const kv = Math.floor((n * z.kvHeads) / z.heads);
    const key = (s: number): number => ((b * z.keys + s) * z.kvHeads + kv) * z.headDim;
    const scores = Float64Array.from({ length: t + 1 }, (_, s) => dot(q, at, k, key(s)) * scale);
    const max = scores.reduce((a, c) => Math.max(a, c));
    const sum = scores.reduce((a, c) => a + Math.exp(c - max), 0);
    const p = scores.map((score) => Math.exp(score - max) / sum);
    const dp = scores.map((_, s) => dot(dOut, at, v, key(s)));
    const mean = p.reduce((a, weight, s) => a + weight * dp[s]!, 0);
    p.forEach((weight, s) => {
      const ds = weight * (dp[s]! - mean) * scale;
      add(dv, key(s), dOut, at, weight);
      add(dq, at, k, key(s), ds);
      add(dk, key(s), q, at, ds);
    });
  }
  return [dq, dk, dv];
}

/** dx and dHead of the summed loss, times `dy`. */
export function crossEntropyGradients(
  x: Values,
  head: Values,
  targets: readonly number[],
  width: number,
  dy: number,
): Values[] {
  const vocab = head.length / width;
  const logits = linearTruth(x, head, null, targets.length, width, vocab);
  targets.forEach((target, r) => {
    const row = logits.subarray(r * vocab, (r + 1) * vocab);
    if (target < 0) return void row.fill(0);
    const max = row.reduce((a, c) => Math.max(a, c));
    row.forEach((value, i) => (row[i] = Math.exp(value - max)));
    const sum = row.reduce((a, c) => a + c, 0);
    row.forEach((value, i) => (row[i] = (value / sum - (i === target ? 1 : 0)) * dy));
  });
  return linearGradients(x, head, logits, targets.length, width, vocab);
}
