/**
 * y[M,N] = A[M,K] B[N,K]^T for a handful of rows, as in decoding: every element of B is used M times only, so its
 * reading is all that counts. A workgroup takes a few columns of y; its lanes walk along k side by side, each adding
 * up its own share, and the shares are added in a fixed order.
 */
import { halfText } from "./half.ts";
import { defineProgram, gridArguments, groupIndex, unrolled, type Program } from "./program.ts";
import { endingName, productNumbers, type Ending } from "./product.ts";

/** Rows that the program takes, at most. */
export const mostRows = 4;
/** Columns of y of one workgroup. */
export const rowColumns = 4;

/**
 * @param size invocations of a workgroup, a power of two
 * @returns the program; a `gridOf(ceil(n / rowColumns))`
 */
export function rowProgram(size: number, ending: Ending, f16: boolean): Program {
  const round = (value: string): string => (f16 ? `half(${value})` : value);
  const cells = mostRows * rowColumns;
  const result = `shares[cell]${ending.bias ? " + bias[n]" : ""}`;
  return defineProgram({
    name: `product nt rows ${size}${f16 ? " f16" : ""}${endingName(ending)}`,
    enable: f16 ? "enable f16;" : "",
    buffers: [{ name: "a" }, { name: "b" }, ...(ending.bias ? [{ name: "bias" }] : []), { name: "y", write: true }],
    numbers: productNumbers,
    body: `${f16 ? halfText : ""}
var<workgroup> shares: array<f32, ${size * cells}>;
@compute @workgroup_size(${size})
fn main(${gridArguments}) {
  let column = (${groupIndex}) * ${rowColumns}u;
  ${unrolled(cells, (i) => `var sum${i} = 0.0;`)}
  for (var k = lane; k < p.k; k += ${size}u) {
    ${unrolled(rowColumns, (c) => {
      const at = `p.bStart + min(column + ${c}u, p.n - 1u) * p.bWidth + k`;
      return `let b${c} = ${round(`b[${at}]`)};`;
    })}
    ${unrolled(mostRows, (r) => {
      const adds = unrolled(rowColumns, (c) => `sum${r * rowColumns + c} = fma(v, b${c}, sum${r * rowColumns + c});`);
      return `if (${r}u < p.m) { let v = ${round(`a[p.aStart + ${r}u * p.aWidth + k]`)}; ${adds} }`;
    })}
  }
  ${unrolled(cells, (i) => `shares[${i}u + lane * ${cells}u] = sum${i};`)}
  workgroupBarrier();
  for (var half = ${size / 2}u; half > 0u; half >>= 1u) {
    for (var i = lane; i < half * ${cells}u; i += ${size}u) { shares[i] = shares[i] + shares[i + half * ${cells}u]; }
    workgroupBarrier();
  }
  for (var cell = lane; cell < ${cells}u; cell += ${size}u) {
    let m = cell / ${rowColumns}u;
    let n = column + cell % ${rowColumns}u;
    if (m < p.m && n < p.n) { y[p.yStart + m * p.n + n] = ${result}; }
  }
}`,
  });
}
