/**
 * Matrix products for devices of 8-wide subgroups, which are processors in disguise (llvmpipe). Their vectors hold a
 * number of each lane, and a load fills one lane by lane, with a check of each address: it costs as much as dozens of
 * multiplications, and equal or neighbouring addresses make it no cheaper. Two things help. Four elements side by side
 * cost a lane little more than one. And what is loaded is used often: a subgroup, which is a workgroup, computes 32
 * columns of y, four in each lane, of 32 rows, whose elements of A it broadcasts from the lanes that loaded them. Code
 * for more rows, or for more steps of k at once, no longer fits the cache of instructions and is slower.
 *
 * Few rows have a program of 8, in which each element of y is the same chain of fused multiply-adds.
 */
import { defineProgram, unrolled, type Program } from "./program.ts";
import { endingName, productNumbers, type Ending, type Form } from "./product.ts";

/** The width of subgroups that the program is written for. */
export const laneWidth = 8;
/** Elements that are loaded together, and columns of y of a lane. */
const quad = 4;
/** Columns of y of a workgroup. */
export const laneColumns = laneWidth * quad;
/** Rows of a workgroup. */
export const laneRows = 32;
/** Rows of a workgroup where there are no more; not in the form tn. */
export const fewLaneRows = laneWidth;

export interface LaneOptions {
  readonly form: Form;
  /** `laneRows`, or `fewLaneRows` where the form is not tn. */
  readonly rows: number;
  readonly ending: Ending;
  /** Rows and starts of A, B and y are multiples of four elements; otherwise k goes in single steps. */
  readonly vectors: boolean;
}

/** @returns the program; a workgroup (x, y) computes the block at column x, row y. */
export function laneProgram(options: LaneOptions): Program {
  const { form, rows, ending, vectors } = options;
  const element = vectors ? "vec4f" : "f32";
  return defineProgram({
    name: `product ${form} lanes ${rows}${vectors ? " vec4" : ""}${endingName(ending)}`,
    enable: "enable subgroups;",
    buffers: [
      { name: "a", element },
      { name: "b", element },
      ...(ending.bias ? [{ name: "bias", element } as const] : []),
      { name: "y", write: true, element },
    ],
    numbers: productNumbers,
    body: `
@compute @workgroup_size(${laneWidth})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * ${rows}u;
  let column = group.x * ${laneColumns}u + lane * ${quad}u;
  ${starts(options)}
  ${unrolled(rows, (r) => `var sum${r} = vec4f(0.0);`)}
  var k = 0u;
  ${vectors ? `for (; k + ${quad - 1}u < p.k; k += ${quad}u) { ${steps(options, quad)} }` : ""}
  ${vectors && form !== "tn" ? "" : `for (; k < p.k; k++) { ${steps(options, 1)} }`}
  ${writes(options)}
}`,
  });
}

/**
 * Where the lane's elements begin at k = 0: of A, a row in each 8 (`a0` ..), or in the form tn four neighbouring rows
 * (`a0` .. `a3`); of B, its four columns (`b0` .. `b3`). What lies outside is loaded from the edge, and not written.
 */
function starts({ form, rows, vectors }: LaneOptions): string {
  const four = (name: string, first: string, count: string): string =>
    unrolled(quad, (i) => {
      const place = vectors ? `min(${first}, ${count} - ${quad}u) + ${i}u` : `min(${first} + ${i}u, ${count} - 1u)`;
      return `let ${name}${i} = p.${name}Start + ${place};`;
    });
  const rowsOfA = (g: number): string =>
    `let a${g} = p.aStart + min(row + ${g * laneWidth}u + lane, p.m - 1u) * p.aWidth;`;
  const columnsOfB = (c: number): string => `let b${c} = p.bStart + min(column + ${c}u, p.n - 1u) * p.bWidth;`;
  return [
    form === "tn" ? four("a", `row + lane * ${quad}u`, "p.m") : unrolled(rows / laneWidth, rowsOfA),
    form === "nt" ? unrolled(quad, columnsOfB) : four("b", "column", "p.n"),
  ].join("\n");
}

/** `count` steps along k, 4 or 1: loads, and rows one after the other, because a row's sums then stay in registers. */
function steps({ form, rows, vectors }: LaneOptions, count: number): string {
  // Neighbours along k, or one of them.
  const along = (name: string, start: string): string =>
    vectors ? `${name}[(${start} + k) / ${quad}u]` : `vec4f(${name}[${start} + k])`;
  // Neighbours across rows or columns, at step i.
  const across = (name: string, i: number): string => {
    const at = (c: number): string => `${name}${c} + (k + ${i}u) * p.${name}Width`;
    return vectors ? `${name}[(${at(0)}) / ${quad}u]` : `vec4f(${[0, 1, 2, 3].map((c) => `${name}[${at(c)}]`).join()})`;
  };
  const left = (r: number, i: number): string =>
    form === "tn"
      ? `subgroupBroadcast(left${i}[${r % quad}], ${Math.floor(r / quad)}u)`
      : `subgroupBroadcast(left${Math.floor(r / laneWidth)}[${i}], ${r % laneWidth}u)`;
  const turned = (i: number): string => [0, 1, 2, 3].map((c) => `turned${c}[${i}]`).join();
  return [
    form === "tn"
      ? unrolled(count, (i) => `let left${i} = ${across("a", i)};`)
      : unrolled(rows / laneWidth, (g) => `let left${g} = ${along("a", `a${g}`)};`),
    form === "nt" ? unrolled(quad, (c) => `let turned${c} = ${along("b", `b${c}`)};`) : "",
    unrolled(count, (i) => `let right${i} = ${form === "nt" ? `vec4f(${turned(i)})` : across("b", i)};`),
    unrolled(rows, (r) => unrolled(count, (i) => `sum${r} = fma(vec4f(${left(r, i)}), right${i}, sum${r});`)),
  ].join("\n");
}

function writes({ rows, ending: { bias, accumulate }, vectors }: LaneOptions): string {
  const result = (r: number): string => `sum${r}${bias ? " + added" : ""}`;
  const each = (line: (c: number) => string): string[] => [0, 1, 2, 3].map(line);
  const edge = (c: number): string => `bias[min(column + ${c}u, p.n - 1u)]`;
  const added = vectors ? `bias[min(column, p.n - ${quad}u) / ${quad}u]` : `vec4f(${each(edge).join()})`;
  const store = vectors
    ? `let at = (p.yStart + m * p.n + column) / ${quad}u;
       if (column < p.n) { y[at] = value${accumulate ? " + y[at]" : ""}; }`
    : each(
        (c) => `if (column + ${c}u < p.n) {
          let at = p.yStart + m * p.n + column + ${c}u;
          y[at] = value[${c}]${accumulate ? " + y[at]" : ""};
        }`,
      ).join("\n");
  return `${bias ? `let added = ${added};` : ""}
  ${unrolled(rows, (r) => `{ let m = row + ${r}u; if (m < p.m) { let value = ${result(r)}; ${store} } }`)}`;
}
