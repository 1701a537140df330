/**
 * y[M,N] = A[M,K] B[N,K]^T for a handful of rows, as in decoding: every element of B is used M times only, so its
 * reading is all that counts. A workgroup takes a few columns of y; slices of B go through workgroup memory, read side
 * by side along k, the next one while this one is used.
 *
 * Each element of y is one chain of fused multiply-adds in the order of k, as in `tileProduct.ts`: a row has the same
 * bits whichever of the two computes it, and so whatever is computed beside it.
 */
import { halfText } from "./half.ts";
import { defineProgram, gridArguments, groupIndex, unrolled, type Program } from "./program.ts";
import { endingName, productNumbers, type Ending } from "./product.ts";
import { sliceDepth } from "./tileProduct.ts";

/** Rows that the program takes, at most. */
export const mostRows = 4;
/** Columns of y of one workgroup. */
export const rowColumns = 16;
/** An invocation for each element of y. */
const size = mostRows * rowColumns;
/** Elements of k in a slice: one for each invocation to read. */
const depth = size;
/** Between the elements of one k in workgroup memory: one more than columns, so that banks do not collide. */
const stride = rowColumns + 1;

/** @returns the program; a `gridOf(ceil(n / rowColumns))` */
export function rowProgram(ending: Ending, f16: boolean): Program {
  const round = (value: string): string => (f16 ? `half(${value})` : value);
  const element = (name: string, row: string, rows: string): string => {
    const at = `p.${name}Start + min(${row}, ${rows} - 1u) * p.${name}Width + min(k, p.k - 1u)`;
    return `select(0.0, ${round(`${name}[${at}]`)}, k < p.k)`;
  };
  const fetch = (assign: (name: string) => string): string =>
    [
      unrolled(rowColumns, (c) => `${assign(`b${c}`)} = ${element("b", `column + ${c}u`, "p.n")};`),
      unrolled(mostRows, (r) => `${assign(`a${r}`)} = ${element("a", `${r}u`, "p.m")};`),
    ].join("\n");
  return defineProgram({
    name: `product nt rows${f16 ? " f16" : ""}${endingName(ending)}`,
    enable: f16 ? "enable f16;" : "",
    buffers: [{ name: "a" }, { name: "b" }, ...(ending.bias ? [{ name: "bias" }] : []), { name: "y", write: true }],
    numbers: productNumbers,
    body: `${f16 ? halfText : ""}
var<workgroup> left: array<f32, ${mostRows * depth}>;
var<workgroup> right: array<f32, ${depth * stride}>;
@compute @workgroup_size(${size})
fn main(${gridArguments}) {
  let column = (${groupIndex}) * ${rowColumns}u;
  let m = lane / ${rowColumns}u;
  let n = column + lane % ${rowColumns}u;
  var k = lane;
  ${fetch((name) => `var ${name}`)}
  // Filled up with zeros as far as the tiles are.
  let whole = (p.k + ${sliceDepth - 1}u) / ${sliceDepth}u * ${sliceDepth}u;
  var sum = 0.0;
  for (var start = 0u; start < p.k; start += ${depth}u) {
    workgroupBarrier();
    ${unrolled(rowColumns, (c) => `right[lane * ${stride}u + ${c}u] = b${c};`)}
    ${unrolled(mostRows, (r) => `left[${r * depth}u + lane] = a${r};`)}
    workgroupBarrier();
    k += ${depth}u;
    if (start + ${depth}u < p.k) { ${fetch((name) => name)} }
    let count = min(${depth}u, whole - start);
    for (var i = 0u; i < count; i++) {
      sum = fma(left[m * ${depth}u + i], right[i * ${stride}u + lane % ${rowColumns}u], sum);
    }
  }
  if (m < p.m && n < p.n) { y[p.yStart + m * p.n + n] = sum${ending.bias ? " + bias[n]" : ""}; }
}`,
  });
}
