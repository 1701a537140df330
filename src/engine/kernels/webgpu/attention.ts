/**
 * What the attention programs are to each other: the same numbers and layouts, made in two families as the matrix
 * products are. All are of the flash kind (Dao 2023): scores exist only a tile at a time, the forward pass keeps
 * one number for each query, the logarithm of its sum of exponentials, and the backward pass makes the
 * probabilities again from it. Nothing is added atomically: the gradient of a key is the sum that one invocation
 * makes over the queries of all heads that share it.
 *
 * The forward pass adds up in one order, whichever program it is: a score is a chain of fused multiply-adds along the
 * dimensions; keys are taken one after the other, each of which may raise the maximum so far, by which what was added
 * up before shrinks (by exactly 1 where it does not). So the bits of a query depend on the keys before it alone.
 */
import type { BufferSpec, Program } from "./program.ts";

/** Programs for one head_dim. */
export interface AttentionPrograms {
  /** Queries, or keys, of one workgroup. */
  readonly block: number;
  /** q, k, v -> y, lse; grid: query blocks, heads, batch. */
  readonly forward: Program;
  /** q, k, v, y, dy, lse -> dq, delta (sum of dy y of each query); grid as forward. */
  readonly backwardQueries: Program;
  /** q, k, v, dy, lse, delta -> dk, dv; grid: key blocks, key/value heads, batch. */
  readonly backwardKeys: Program;
}

export const attentionNumbers = [
  ["queries", "u32"],
  ["keys", "u32"],
  ["heads", "u32"],
  ["keyHeads", "u32"],
  ["offset", "u32"],
  ["scale", "f32"],
] as const;

/** Buffers of the three programs; those of [B, *, *, H] tensors have elements of `element`. */
export function attentionBuffers(
  element: "f32" | "vec4f",
): Record<keyof Omit<AttentionPrograms, "block">, BufferSpec[]> {
  const rows = (...names: string[]): BufferSpec[] => names.map((name) => ({ name, element }));
  const made = (name: string): BufferSpec => ({ name, element, write: true });
  return {
    forward: [...rows("q", "k", "v"), made("y"), { name: "lse", write: true }],
    backwardQueries: [...rows("q", "k", "v", "y", "dy"), { name: "lse" }, made("dq"), { name: "delta", write: true }],
    backwardKeys: [...rows("q", "k", "v", "dy"), { name: "lse" }, { name: "delta" }, made("dk"), made("dv")],
  };
}

/** WGSL of where things lie: the row of a query in [B, T, N], of a key in [B, S, K], and of a query in [B, N, T]. */
export const attentionRows = `
fn queryRow(b: u32, t: u32, n: u32) -> u32 { return (b * p.queries + t) * p.heads + n; }
fn keyRow(b: u32, s: u32, n: u32) -> u32 { return (b * p.keys + s) * p.keyHeads + n; }
fn statRow(b: u32, t: u32, n: u32) -> u32 { return (b * p.heads + n) * p.queries + t; }`;

/** A number below every score; a literal infinity is not WGSL. */
export const lowest = "-3.4e38";
