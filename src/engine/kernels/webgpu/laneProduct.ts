/**
 * Matrix products for devices of 8-wide subgroups, which are processors in disguise (llvmpipe): every load of memory
 * is taken apart into its lanes there, workgroup memory included, so that a load costs as much as dozens of
 * multiplications. A subgroup computes 16 rows times 16 columns of y and loads each operand once for 8 steps of k:
 * what all lanes need is broadcast from the lane that loaded it. For a handful of rows there are programs of fewer,
 * in which each element of y is the same chain of fused multiply-adds.
 */
import { halfText } from "./half.ts";
import { defineProgram, unrolled, type Program } from "./program.ts";
import { endingName, productNumbers, type Ending, type Form } from "./product.ts";

/** The width of subgroups that the program is written for. */
export const laneWidth = 8;
export const laneRows = 16;
export const laneColumns = 16;
const columnGroups = laneColumns / laneWidth;

export interface LaneOptions {
  readonly form: Form;
  /** Rows of a workgroup: `laneRows`, or fewer where the form is nt. */
  readonly rows: number;
  readonly ending: Ending;
  readonly f16: boolean;
}

/** @returns the program; a workgroup (x, y) computes the block at column x, row y. */
export function laneProgram({ form, rows, ending, f16 }: LaneOptions): Program {
  const round = (value: string): string => (f16 ? `half(${value})` : value);
  return defineProgram({
    name: `product ${form} lanes ${rows}${f16 ? " f16" : ""}${endingName(ending)}`,
    enable: `enable subgroups;${f16 ? " enable f16;" : ""}`,
    buffers: [{ name: "a" }, { name: "b" }, ...(ending.bias ? [{ name: "bias" }] : []), { name: "y", write: true }],
    numbers: productNumbers,
    body: `${f16 ? halfText : ""}
fn aOf(m: u32, k: u32) -> f32 {
  let row = min(m, p.m - 1u);
  return ${round(`a[p.aStart + ${form === "tn" ? "k * p.aWidth + row" : "row * p.aWidth + k"}]`)};
}
fn bOf(k: u32, n: u32) -> f32 {
  let column = min(n, p.n - 1u);
  return ${round(`b[p.bStart + ${form === "nt" ? "column * p.bWidth + k" : "k * p.bWidth + column"}]`)};
}
@compute @workgroup_size(${laneWidth})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * ${rows}u;
  let column = group.x * ${laneColumns}u + lane;
  ${unrolled(rows * columnGroups, (i) => `var sum${i} = 0.0;`)}
  let whole = p.k / ${laneWidth}u * ${laneWidth}u;
  for (var k = 0u; k < whole; k += ${laneWidth}u) {
    ${form === "tn" ? "" : unrolled(rows, (r) => `let a${r} = aOf(row + ${r}u, k + lane);`)}
    ${unrolled(laneWidth, (i) => step(form, rows, i))}
  }
  for (var k = whole; k < p.k; k++) {
    ${unrolled(columnGroups, (g) => `let b${g} = bOf(k, column + ${g * laneWidth}u);`)}
    ${unrolled(rows, (r) => `{ let a = aOf(row + ${r}u, k); ${addRow(r)} }`)}
  }
  ${unrolled(rows, (r) => writeRow(ending, r))}
}`,
  });
}

/** Step `i` of 8 along k. Where A is [K, M], the lanes hold rows and not steps of k. */
function step(form: Form, rows: number, i: number): string {
  const rowGroups = rows / laneWidth;
  const loadA = unrolled(rowGroups, (g) => `let a${g} = aOf(row + ${g * laneWidth}u + lane, k + ${i}u);`);
  const valueOf = (r: number): string =>
    form === "tn"
      ? `subgroupBroadcast(a${Math.floor(r / laneWidth)}, ${r % laneWidth}u)`
      : `subgroupBroadcast(a${r}, ${i}u)`;
  return `{
    ${form === "tn" ? loadA : ""}
    ${unrolled(columnGroups, (g) => `let b${g} = bOf(k + ${i}u, column + ${g * laneWidth}u);`)}
    ${unrolled(rows, (r) => `{ let a = ${valueOf(r)}; ${addRow(r)} }`)}
  }`;
}

function addRow(r: number): string {
  return unrolled(columnGroups, (g) => {
    const sum = `sum${r * columnGroups + g}`;
    return `${sum} = fma(a, b${g}, ${sum});`;
  });
}

function writeRow({ bias, accumulate }: Ending, r: number): string {
  const writes = unrolled(columnGroups, (g) => {
    const value = `sum${r * columnGroups + g}${bias ? " + bias[n]" : ""}${accumulate ? " + y[at]" : ""}`;
    const place = `let n = column + ${g * laneWidth}u; let at = p.yStart + m * p.n + n;`;
    return `{ ${place} if (n < p.n) { y[at] = ${value}; } }`;
  });
  return `{ let m = row + ${r}u; if (m < p.m) { ${writes} } }`;
}
