/**
 * Matrix products as GPUs like them: a workgroup computes a tile of y, of which each invocation keeps a block in
 * registers; slices of A and B along k go through workgroup memory, and the next slice is fetched while this one is
 * multiplied. Operands are moved as blocks of 4 x 4: four vectors are read as they lie in memory, turned where k is
 * the inner axis, and written as vectors along m or n.
 *
 * With `f16` operands are rounded to half precision on their way into workgroup memory; sums stay float32.
 */
import { halfText } from "./half.ts";
import { defineProgram, unrolled, type Program } from "./program.ts";
import { productNumbers, type Ending, type Form, endingName } from "./product.ts";

export interface Tile {
  /** Rows and columns of a tile of y: multiples of 4 x the block's. */
  readonly rows: number;
  readonly columns: number;
  /** Rows and columns of y that one invocation keeps: 4 or 8. */
  readonly blockRows: number;
  readonly blockColumns: number;
}

export interface TileOptions {
  readonly form: Form;
  readonly tile: Tile;
  readonly ending: Ending;
  /** Both operands' rows, and all starts, are multiples of 4 elements: they can be read as vectors. */
  readonly vectors: boolean;
  readonly f16: boolean;
}

/** Elements of k in a slice; sums are filled up with zeros to a multiple of it. */
export const sliceDepth = 16;
const depth = sliceDepth;
const slabs = depth / 4;

export function tileInvocations({ rows, columns, blockRows, blockColumns }: Tile): number {
  return (rows / blockRows) * (columns / blockColumns);
}

/** @returns the program; a workgroup (x, y) computes the tile at column x, row y. */
export function tileProgram(options: TileOptions): Program {
  const { form, tile, ending, vectors, f16 } = options;
  const { rows, columns, blockRows, blockColumns } = tile;
  const shape = `${rows}x${columns}/${blockRows}x${blockColumns}`;
  const element = vectors ? "vec4f" : "f32";
  return defineProgram({
    name: `product ${form} tile ${shape}${vectors ? "" : " scalar"}${f16 ? " f16" : ""}${endingName(ending)}`,
    enable: f16 ? "enable f16;" : "",
    buffers: [
      { name: "a", element },
      { name: "b", element },
      ...(ending.bias ? [{ name: "bias" }] : []),
      { name: "y", write: true },
    ],
    numbers: productNumbers,
    body: body(options),
  });
}

function body({ form, tile, ending, vectors, f16 }: TileOptions): string {
  const { rows, columns, blockRows, blockColumns } = tile;
  const invocations = tileInvocations(tile);
  const across = columns / blockColumns;
  const vector = f16 ? "vec4h" : "vec4f";
  const fetches = Math.ceil(((rows + columns) * slabs) / 4 / invocations);
  return `${f16 ? halfText : ""}
var<workgroup> slice: array<${vector}, ${((rows + columns) * depth) / 4}>;
${operandReader("a", vectors)}
${operandReader("b", vectors)}
${fetcher("fetchA", "a", form === "tn", "p.m")}
${fetcher("fetchB", "b", form !== "nt", "p.n")}
${blockMovers(tile, form, f16 ? "half4" : "vec4f")}
@compute @workgroup_size(${invocations})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * ${rows}u;
  let column = group.x * ${columns}u;
  let down = lane / ${across}u;
  let right = lane % ${across}u;
  ${unrolled((blockRows * blockColumns) / 4, (i) => `var sum${i} = vec4f();`)}
  ${unrolled(fetches, (f) => `var next${f} = fetchBlock(${f * invocations}u + lane, row, column, 0u);`)}
  for (var k = 0u; k < p.k; k += ${depth}u) {
    workgroupBarrier();
    ${unrolled(fetches, (f) => `storeBlock(${f * invocations}u + lane, next${f});`)}
    workgroupBarrier();
    if (k + ${depth}u < p.k) {
      ${unrolled(fetches, (f) => `next${f} = fetchBlock(${f * invocations}u + lane, row, column, k + ${depth}u);`)}
    }
    for (var i = 0u; i < ${depth}u; i++) {
      ${multiply(tile)}
    }
  }
  ${unrolled(blockRows, (r) => writeRow(tile, ending, r))}
}`;
}

/** WGSL of `aAt` or `bAt`: four neighbouring elements of an operand as it is stored; zeros outside of it. */
export function operandReader(name: "a" | "b", vectors: boolean): string {
  const one = (i: number): string => `select(0.0, ${name}[min(at + ${i}u, last)], column + ${i}u < columns)`;
  const read = vectors
    ? `return ${name}[at / 4u];`
    : `let last = at + columns - 1u - column;
  return vec4f(${[0, 1, 2, 3].map(one).join(", ")});`;
  return `fn ${name}At(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row >= rows || column >= columns) { return vec4f(); }
  let at = p.${name}Start + row * p.${name}Width + column;
  ${read}
}`;
}

/** Four elements along the operand's own axis (m or n) times four along k, as vectors along the own axis. */
function fetcher(name: string, operand: string, isInner: boolean, size: string): string {
  const row = (i: number): string =>
    isInner ? `${operand}At(k + ${i}u, own, p.k, ${size})` : `${operand}At(own + ${i}u, k, ${size}, p.k)`;
  return `fn ${name}(own: u32, k: u32) -> mat4x4f {
  let block = mat4x4f(${[0, 1, 2, 3].map(row).join(", ")});
  return ${isInner ? "block" : "transpose(block)"};
}`;
}

/**
 * `fetchBlock` and `storeBlock`: block number `index` of a slice, those of A before those of B, in an order in which
 * neighbouring lanes read neighbouring memory. In workgroup memory a slice is [k, m / 4] then [k, n / 4] vectors.
 */
function blockMovers({ rows, columns }: Tile, form: Form, convert: string): string {
  const place = (own: number, isInner: boolean): string =>
    isInner ? `vec2u(at % ${own / 4}u, at / ${own / 4}u)` : `vec2u(at / ${slabs}u, at % ${slabs}u)`;
  const [ofA, ofB] = [(rows / 4) * slabs, (columns / 4) * slabs];
  const [placeA, placeB] = [place(rows, form === "tn"), place(columns, form !== "nt")];
  return `fn placeA(at: u32) -> vec2u { return ${placeA}; }
fn placeB(at: u32) -> vec2u { return ${placeB}; }
fn fetchBlock(index: u32, row: u32, column: u32, k: u32) -> mat4x4f {
  if (index < ${ofA}u) {
    let place = placeA(index);
    return fetchA(row + place.x * 4u, k + place.y * 4u);
  }
  let place = placeB(index - ${ofA}u);
  return fetchB(column + place.x * 4u, k + place.y * 4u);
}
fn storeBlock(index: u32, block: mat4x4f) {
  if (index < ${ofA}u) {
    let place = placeA(index);
    for (var i = 0u; i < 4u; i++) { slice[(place.y * 4u + i) * ${rows / 4}u + place.x] = ${convert}(block[i]); }
  } else if (index < ${ofA + ofB}u) {
    let place = placeB(index - ${ofA}u);
    for (var i = 0u; i < 4u; i++) {
      slice[${(rows * depth) / 4}u + (place.y * 4u + i) * ${columns / 4}u + place.x] = ${convert}(block[i]);
    }
  }
}`;
}

/** One step along k: the invocation's rows, in groups of four spread over the tile, times its columns likewise. */
function multiply({ rows, columns, blockRows, blockColumns }: Tile): string {
  const [groupsDown, groupsRight] = [blockRows / 4, blockColumns / 4];
  const startB = (rows * depth) / 4;
  const readA = (g: number): string =>
    `let a${g} = vec4f(slice[i * ${rows / 4}u + ${(g * rows) / 4 / groupsDown}u + down]);`;
  const readB = (g: number): string =>
    `let b${g} = vec4f(slice[${startB}u + i * ${columns / 4}u + ${(g * columns) / 4 / groupsRight}u + right]);`;
  const add = (index: number): string => {
    const [r, g] = [Math.floor(index / groupsRight), index % groupsRight];
    return `sum${index} = fma(vec4f(a${r >> 2}[${r & 3}]), b${g}, sum${index});`;
  };
  return [unrolled(groupsDown, readA), unrolled(groupsRight, readB), unrolled(blockRows * groupsRight, add)].join("\n");
}

/** Writes row `r` of an invocation's block. */
function writeRow(tile: Tile, { bias, accumulate }: Ending, r: number): string {
  const { rows, columns, blockRows, blockColumns } = tile;
  const [groupsDown, groupsRight] = [blockRows / 4, blockColumns / 4];
  const m = `row + ${((r >> 2) * rows) / groupsDown}u + down * 4u + ${r & 3}u`;
  const writes = unrolled(groupsRight, (g) => {
    const start = `let n = column + ${(g * columns) / groupsRight}u + right * 4u;`;
    const value = `sum${r * groupsRight + g}`;
    const one = (i: number): string => {
      const result = `${value}[${i}]${bias ? ` + bias[n + ${i}u]` : ""}${accumulate ? ` + y[at + ${i}u]` : ""}`;
      return `if (n + ${i}u < p.n) { y[at + ${i}u] = ${result}; }`;
    };
    return `{ ${start} let at = p.yStart + m * p.n + n; ${[0, 1, 2, 3].map(one).join(" ")} }`;
  });
  return `{ let m = ${m}; if (m < p.m) { ${writes} } }`;
}
