/**
 * Matrix products by matrices of subgroups (`matrixOps.ts`): halves in, float32 sums. A workgroup computes a tile of y,
 * each of its subgroups a block of it; slices of A and B along k go through workgroup memory, rounded to half precision
 * on their way, laid out as they are stored (which of their axes is k is the loading's matter), and the next slice is
 * fetched while this one is multiplied. Outside of the operands slices hold zeros, so any shape will do.
 *
 * Each element of y is added up in the order of k, a unit's K at a time, by the same operation wherever it lies in
 * whichever tile, so that a row has the same bits in any company as far as the operation itself does not look at the
 * place of an element; `matrixTrial.ts` makes sure of that.
 */
import { halfText } from "./half.ts";
import { unitMultiple, type MatrixOps, type MatrixTile } from "./matrixOps.ts";
import { endingName, productNumbers, type Ending, type Form } from "./product.ts";
import { defineProgram, unrolled, type Program } from "./program.ts";
import { operandReader } from "./tileProduct.ts";

/** Elements of k in a slice, of every tile: what sums are filled up with zeros to is the same for all. */
const depth = unitMultiple;
/** Halves between the rows of a slice beside their own: rows begin in different banks, and at multiples of 16 bytes. */
const padding = 8;

export interface MatrixOptions {
  readonly form: Form;
  readonly tile: MatrixTile;
  readonly ending: Ending;
  /** Both operands' rows, and all starts, are multiples of 4 elements: they can be read as vectors. */
  readonly vectors: boolean;
  readonly ops: MatrixOps;
}

/** How an operand lies in workgroup memory: rows along the axis that is not contiguous where it is stored. */
interface Slice {
  readonly outer: number;
  readonly inner: number;
  readonly stride: number;
  readonly size: number;
  /** Vectors of four elements. */
  readonly vectors: number;
}

function sliceOf(own: number, isInner: boolean): Slice {
  const [outer, inner] = isInner ? [depth, own] : [own, depth];
  const stride = inner + padding;
  // A matrix may be read as if its last row were whole, wherever it begins.
  return { outer, inner, stride, size: outer * stride + inner, vectors: (outer * inner) / 4 };
}

const slicesOf = (form: Form, { rows, columns }: MatrixTile): readonly [Slice, Slice] => [
  sliceOf(rows, form === "tn"),
  sliceOf(columns, form !== "nt"),
];

const subgroupsOf = ({ rows, columns, blockRows, blockColumns }: MatrixTile): number =>
  (rows / blockRows) * (columns / blockColumns);

/** @returns whether a device has the invocations and the workgroup memory that a tile takes. */
export function tileFits(tile: MatrixTile, { unit, width }: MatrixOps, limits: GPUSupportedLimits): boolean {
  const bytes = (form: Form): number => {
    const halves = slicesOf(form, tile).reduce((sum, { size }) => sum + size, 0);
    return 2 * halves + 4 * subgroupsOf(tile) * unit.m * unit.n;
  };
  const most = Math.max(bytes("nt"), bytes("nn"), bytes("tn"));
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX } = limits;
  const invocations = subgroupsOf(tile) * width;
  const fits = invocations <= Math.min(maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX);
  return fits && most <= maxComputeWorkgroupStorageSize;
}

/** @returns the program; a workgroup (x, y) computes the tile at column x, row y. */
export function matrixProgram(options: MatrixOptions): Program {
  const { form, tile, ending, vectors, ops } = options;
  const element = vectors ? "vec4f" : "f32";
  const shape = `${tile.rows}x${tile.columns} ${ops.name}`;
  return defineProgram({
    name: `product ${form} matrices ${shape}${vectors ? "" : " scalar"}${endingName(ending)}`,
    enable: `enable f16; ${ops.enable}`,
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

function body({ form, tile, ending, vectors, ops }: MatrixOptions): string {
  const { rows, columns, blockRows, blockColumns } = tile;
  const [a, b] = slicesOf(form, tile);
  const { unit } = ops;
  const subgroups = subgroupsOf(tile);
  const invocations = subgroups * ops.width;
  const across = columns / blockColumns;
  const sums = (blockRows / unit.m) * (blockColumns / unit.n);
  const fetches = Math.ceil((a.vectors + b.vectors) / invocations);
  return `${halfText}
var<workgroup> sliceA: array<f16, ${a.size}>;
var<workgroup> sliceB: array<f16, ${b.size}>;
var<workgroup> result: array<f32, ${subgroups * unit.m * unit.n}>;
${operandReader("a", vectors)}
${operandReader("b", vectors)}
${ops.declarations}
${sliceMovers(form, a, b)}
@compute @workgroup_size(${invocations}) ${ops.attributes}
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32${ops.entryArguments}) {
  ${ops.entry}
  let row = group.y * ${rows}u;
  let column = group.x * ${columns}u;
  let down = subgroup / ${across}u * ${blockRows}u;
  let right = subgroup % ${across}u * ${blockColumns}u;
  ${unrolled(sums, (i) => ops.zero(`sum${i}`))}
  ${unrolled(fetches, (f) => `var next${f} = fetch(${f * invocations}u + lane, row, column, 0u);`)}
  for (var k = 0u; k < p.k; k += ${depth}u) {
    workgroupBarrier();
    ${unrolled(fetches, (f) => `keep(${f * invocations}u + lane, next${f});`)}
    workgroupBarrier();
    if (k + ${depth}u < p.k) {
      ${unrolled(fetches, (f) => `next${f} = fetch(${f * invocations}u + lane, row, column, k + ${depth}u);`)}
    }
    for (var step = 0u; step < ${depth}u; step += ${unit.k}u) {
      ${multiply(form, tile, ops)}
    }
  }
  ${unrolled(sums, (i) => writeUnit(tile, ending, ops, i))}
}`;
}

/** `fetch` and `keep`: four neighbouring elements, number `index` of a slice, those of A before those of B. */
function sliceMovers(form: Form, a: Slice, b: Slice): string {
  const place = ({ inner }: Slice): string => `let outer = at / ${inner / 4}u; let inner = at % ${inner / 4}u * 4u;`;
  const readA = form === "tn" ? "aAt(k + outer, row + inner, p.k, p.m)" : "aAt(row + outer, k + inner, p.m, p.k)";
  const readB = form === "nt" ? "bAt(column + outer, k + inner, p.n, p.k)" : "bAt(k + outer, column + inner, p.k, p.n)";
  const write = (name: string, { stride }: Slice): string =>
    `for (var i = 0u; i < 4u; i++) { ${name}[outer * ${stride}u + inner + i] = values[i]; }`;
  return `fn fetch(index: u32, row: u32, column: u32, k: u32) -> vec4h {
  if (index < ${a.vectors}u) { let at = index; ${place(a)} return half4(${readA}); }
  let at = index - ${a.vectors}u;
  ${place(b)}
  return half4(${readB});
}
fn keep(index: u32, values: vec4h) {
  if (index < ${a.vectors}u) {
    let at = index; ${place(a)} ${write("sliceA", a)}
  } else if (index < ${a.vectors + b.vectors}u) {
    let at = index - ${a.vectors}u; ${place(b)} ${write("sliceB", b)}
  }
}`;
}

/** The unit's K, from `step` of the slice on: the subgroup's rows times its columns. */
function multiply(form: Form, tile: MatrixTile, ops: MatrixOps): string {
  const [a, b] = slicesOf(form, tile);
  const { m, n } = ops.unit;
  const [unitsDown, unitsAcross] = [tile.blockRows / m, tile.blockColumns / n];
  const offset = (own: string, { stride }: Slice, isInner: boolean): string =>
    isInner ? `step * ${stride}u + ${own}` : `(${own}) * ${stride}u + step`;
  const left = (r: number): string =>
    ops.left(`left${r}`, {
      offset: offset(`down + ${r * m}u`, a, form === "tn"),
      stride: `${a.stride}u`,
      major: form === "tn" ? "column" : "row",
    });
  const right = (c: number): string =>
    ops.right("right0", {
      offset: offset(`right + ${c * n}u`, b, form !== "nt"),
      stride: `${b.stride}u`,
      major: form === "nt" ? "column" : "row",
    });
  const column = (c: number): string =>
    `{ ${right(c)} ${unrolled(unitsDown, (r) => ops.multiply(`sum${r * unitsAcross + c}`, `left${r}`, "right0"))} }`;
  return `${unrolled(unitsDown, left)}
      ${unrolled(unitsAcross, column)}`;
}

/** Writes unit `index` of every subgroup's block, through workgroup memory: the workgroup writes rows side by side. */
function writeUnit(tile: MatrixTile, { bias, accumulate }: Ending, ops: MatrixOps, index: number): string {
  const { m, n } = ops.unit;
  const { blockRows, blockColumns, columns } = tile;
  const [across, unitsAcross] = [columns / blockColumns, blockColumns / n];
  const [r, c] = [Math.floor(index / unitsAcross), index % unitsAcross];
  const value = `result[at]${bias ? " + bias[n]" : ""}${accumulate ? " + y[to]" : ""}`;
  return `workgroupBarrier();
  ${ops.store(`sum${index}`, `subgroup * ${m * n}u`)}
  workgroupBarrier();
  for (var at = lane; at < ${subgroupsOf(tile) * m * n}u; at += ${subgroupsOf(tile) * ops.width}u) {
    let owner = at / ${m * n}u;
    let m = row + owner / ${across}u * ${blockRows}u + ${r * m}u + at % ${m * n}u / ${n}u;
    let n = column + owner % ${across}u * ${blockColumns}u + ${c * n}u + at % ${n}u;
    if (m < p.m && n < p.n) { let to = p.yStart + m * p.n + n; y[to] = ${value}; }
  }`;
}
