/**
 * The compiled form of a row program (ops/growth/rows.ts): builds rows of a grown matrix in the source's element type,
 * to the bit as the loops in ops do, several times as fast. One kernel serves one thread; its WebAssembly memory holds
 * the tables of one matrix, a run of source rows and a block of target rows, and grows to the largest it has seen.
 */
import { readFileSync } from "node:fs";
import { compileOptimized } from "../kernels/wasm/compile.ts";
import type { MatrixRows, RowProgram } from "../../ops/growth/index.ts";
import { dtypeBytes } from "../../ops/dtype.ts";
import type { Dtype } from "../../ops/tensor.ts";

type Procedure = (...args: number[]) => void;

interface RowFunctions {
  readonly row_tiled: Procedure;
  readonly row_scaled: Procedure;
  readonly row_elementwise: Procedure;
  readonly row_pairs: Procedure;
}

/** Room for one matrix: where its source rows go and its target rows come out. */
export interface RowBench {
  /** To be filled with whole source rows, little-endian, as stored. */
  readonly source: Uint8Array<ArrayBuffer>;
  /** Target rows. */
  readonly out: Uint8Array<ArrayBuffer>;
  /**
   * Builds target row `row` at byte `outByte` of `out`, from the source row at byte `sourceByte` of `source`; zeros
   * where the row has no source row.
   */
  build(row: number, sourceByte: number, outByte: number): void;
}

export interface RowKernel {
  /**
   * @param sourceBytes room for source rows, and `outBytes` for target rows
   * @returns a bench that is good until the next one is asked for
   */
  prepare(rows: MatrixRows, program: RowProgram, dtype: Dtype, sourceBytes: number, outBytes: number): RowBench;
}

const pageBytes = 1 << 16;
/** Keeps every table aligned for vectors. */
const alignment = 16;

/** @returns whether the kernel computes in that element type; others take the loops. */
export function rowKernelTakes(dtype: Dtype): boolean {
  return (dtype === "BF16" || dtype === "F32") && new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
}

/** @returns the committed module; threads may share it. */
export function compileRowKernel(): WebAssembly.Module {
  const bytes = readFileSync(new URL("./rows.wasm", import.meta.url));
  return compileOptimized(new Uint8Array(bytes), []);
}

/** A kernel with a memory of its own. */
export function createRowKernel(module: WebAssembly.Module): RowKernel {
  const memory = new WebAssembly.Memory({ initial: 16 });
  const functions = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as RowFunctions;
  return {
    prepare(rows, program, dtype, sourceBytes, outBytes) {
      const { first, columns } = program.columns;
      let end = alignment; // address 0 stands for none
      const place = (bytes: number): number => {
        const start = end;
        end += Math.ceil(bytes / alignment) * alignment;
        return start;
      };
      const at = {
        first: place(first.byteLength),
        columns: place(columns.byteLength),
        scale: program.columnScale === null ? 0 : place(program.columnScale.byteLength),
        source: place(sourceBytes),
        out: place(outBytes),
      };
      const missing = end - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / pageBytes));
      const { buffer } = memory;
      new Int32Array(buffer, at.first, first.length).set(first);
      new Int32Array(buffer, at.columns, columns.length).set(columns);
      if (program.columnScale !== null) {
        new Float64Array(buffer, at.scale, program.columnScale.length).set(program.columnScale);
      }
      const out = new Uint8Array(buffer, at.out, outBytes);
      const write = writerOf(functions, rows, program, dtype, at);
      const rowBytes = rows.width * dtypeBytes(dtype);
      const covered = columns.length === rows.width;
      return {
        source: new Uint8Array(buffer, at.source, sourceBytes),
        out,
        build(row, sourceByte, outByte) {
          const isOld = rows.origin[row]! >= 0;
          if (!isOld || !covered) out.fill(0, outByte, outByte + rowBytes);
          if (isOld) write(at.out + outByte, at.source + sourceByte, row);
        },
      };
    },
  };
}

interface Addresses {
  readonly first: number;
  readonly columns: number;
  readonly scale: number;
}

/** One call of the module for each row: addresses of target and source row, and the row's number. */
function writerOf(
  { row_tiled, row_scaled, row_elementwise, row_pairs }: RowFunctions,
  { width, sourceWidth }: MatrixRows,
  { way, divides, key, rowScale, columnScale, columns }: RowProgram,
  dtype: Dtype,
  at: Addresses,
): (out: number, source: number, row: number) => void {
  const wide = dtype === "F32" ? 1 : 0;
  const scaleOf = (row: number): number => (rowScale === null ? 1 : rowScale[row]!);
  if (way === "tiled") {
    const copies = width / sourceWidth;
    const whole = divides ? copies : 1;
    return (out, source, row) => row_tiled(out, source, sourceWidth, copies, scaleOf(row), whole, wide);
  }
  const tables = [at.first, at.columns, at.scale] as const;
  if (way !== "elementwise") {
    const [shares, ranked] = [divides ? 1 : 0, way === "ranked" ? 1 : 0];
    return (out, source, row) => row_scaled(out, source, sourceWidth, ...tables, scaleOf(row), shares, ranked, wide);
  }
  const doubled = width === 2 * sourceWidth && columnScale === null && isDoubling(columns.columns, sourceWidth);
  if (doubled) return (out, source, row) => row_pairs(out, source, sourceWidth, scaleOf(row), key, row, wide);
  return (out, source, row) => row_elementwise(out, source, sourceWidth, ...tables, scaleOf(row), key, row, wide);
}

/** Whether column i has copies at i and at size + i. */
function isDoubling(places: Int32Array, size: number): boolean {
  return places.length === 2 * size && places.every((column, at) => column === (at >> 1) + (at & 1) * size);
}
