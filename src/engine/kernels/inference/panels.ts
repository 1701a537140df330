/**
 * Weight matrices as `c/panels.c` wants them, and products with them: by the wasm kernel, or, for many rows, by a BLAS
 * of the machine where it gives the same numbers.
 */
import { invariant } from "../../../ops/errors.ts";
import type { Blas } from "../native/blas.ts";
import type { InferenceFunctions } from "./module.ts";
import type { SharedHeap } from "./sharedHeap.ts";

/** A matrix [outputs, inputs] in panels. Plain data: it crosses to threads. */
export interface PanelMatrix {
  readonly at: number;
  readonly outputs: number;
  readonly inputs: number;
  /** float32; else bfloat16. */
  readonly wide: boolean;
  /** Address of [outputs] float32, 0 for none. */
  readonly bias: number;
}

/** Rows of float32: address of the first, and floats from one to the next. */
export interface Rows {
  readonly at: number;
  readonly stride: number;
}

/** Steps of the summed index that the kernels take as a block: KC of gemm.h. */
export const productBlock = 256;
/** OpenBLAS takes another path, with other sums, for products of at most so many multiplications. */
const smallProduct = 100 ** 3;
/** Rows up to which the wasm kernel, which reads weights as they lie, is no slower than unpacking them for BLAS. */
export const mostDirectRows = 48;
/** Outputs that BLAS is given at once, at most. */
export const mostBlasOutputs = 512;

/** Inputs of products, by `PanelProducts.inputs`. */
export interface ProductInputs {
  readonly rows: number;
  readonly x: Rows;
  /** The row and the width of weights for which the thread's scratch has them turned; null: it has not. */
  turned: { readonly row: number; readonly wide: boolean } | null;
}

/** The products of one thread. */
export class PanelProducts {
  readonly #c: InferenceFunctions;
  readonly #blas: Blas | null;
  readonly #sums: number;
  readonly #room: number;
  readonly #mostRows: number;
  #inputs: ProductInputs | null = null;
  /** Outputs of a panel. */
  readonly width: number;

  /** @param scratch floats of `panelScratchFloats`, this thread's own */
  constructor(c: InferenceFunctions, blas: Blas | null, scratch: number) {
    this.#c = c;
    this.#blas = blas;
    this.#sums = scratch;
    this.#room = scratch + c.panel_scratch_floats() * 4;
    this.#mostRows = c.panel_most_rows();
    this.width = c.panel_width();
  }

  /** @returns rows for `part`, of which the last given are valid until their numbers change */
  inputs(rows: number, x: Rows): ProductInputs {
    this.#inputs = { rows, x, turned: null };
    return this.#inputs;
  }

  /** y = x w^T + bias for outputs of `panels` panels from `first` on; y is written in whole panels. */
  part(inputs: ProductInputs, w: PanelMatrix, y: Rows, first: number, panels: number): void {
    invariant(inputs === this.#inputs, "a product with inputs that others have replaced");
    const { at, wide, bias } = w;
    const from = at + first * this.width * w.inputs * (wide ? 4 : 2);
    const to = y.at + first * this.width * 4;
    const place = [from, to, y.stride, panels] as const;
    if (!this.#byBlas(inputs, w, ...place)) this.#byKernel(inputs, w, ...place);
    if (bias === 0) return;
    const own = Math.min(panels * this.width, w.outputs - first * this.width);
    const added = bias + first * this.width * 4;
    this.#c.add_rows(inputs.rows, own, to, y.stride, added, 0);
  }

  #byKernel(
    inputs: ProductInputs,
    { inputs: depth, wide }: PanelMatrix,
    from: number,
    to: number,
    stride: number,
    panels: number,
  ): void {
    const { rows, x } = inputs;
    const [c, flag] = [this.#c, wide ? 1 : 0];
    for (let row = 0; row < rows; row += this.#mostRows) {
      const some = Math.min(rows - row, this.#mostRows);
      const own = x.at + row * x.stride * 4;
      const isTurned = inputs.turned?.row === row && inputs.turned.wide === wide;
      if (some > 1 && !isTurned) {
        c.panel_turn(some, depth, flag, own, x.stride, this.#room);
        inputs.turned = { row, wide };
      }
      const left = some > 1 ? this.#room : own;
      c.panel_product(some, panels, depth, flag, left, from, to + row * stride * 4, stride, this.#sums);
    }
  }

  /** @returns whether it was done: not where a block is so small that BLAS would add up in another order. */
  #byBlas(
    inputs: ProductInputs,
    { inputs: depth, wide }: PanelMatrix,
    from: number,
    to: number,
    stride: number,
    panels: number,
  ): boolean {
    const blas = this.#blas;
    const { rows, x } = inputs;
    if (!blas || rows <= mostDirectRows) return false;
    const outputs = panels * this.width;
    const smallest = depth % productBlock === 0 ? productBlock : depth % productBlock;
    if (rows * outputs * smallest <= smallProduct || outputs > mostBlasOutputs) return false;
    inputs.turned = null;
    this.#c.panel_unpack(panels, depth, wide ? 1 : 0, from, this.#room);
    for (let start = 0; start < depth; start += productBlock) {
      const a = { at: x.at + 4 * start, transposed: false, stride: x.stride };
      const b = { at: this.#room + 4 * start * outputs, transposed: false, stride: outputs };
      blas.multiply(rows, outputs, Math.min(productBlock, depth - start), a, b, to, start > 0, stride);
    }
    return true;
  }
}

/** @returns floats of scratch that a thread's products need for matrices of at most so many inputs. */
export function panelScratchFloats(c: InferenceFunctions, mostInputs: number, blas: boolean): number {
  return c.panel_scratch_floats() + mostInputs * Math.max(c.panel_most_rows(), blas ? mostBlasOutputs : 0);
}

/** Matrices being laid out. */
export class PanelPacker {
  readonly #heap: SharedHeap;
  readonly #c: InferenceFunctions;
  readonly #width: number;

  constructor(heap: SharedHeap, c: InferenceFunctions) {
    this.#heap = heap;
    this.#c = c;
    this.#width = c.panel_width();
  }

  /** @param values row-major: float32, or bfloat16 bits */
  matrix(values: Float32Array | Uint16Array, outputs: number, inputs: number): Omit<PanelMatrix, "bias"> {
    const wide = values instanceof Float32Array;
    const [bytes, width] = [wide ? 4 : 2, this.#width];
    const panels = Math.ceil(outputs / width);
    const at = this.#heap.take(panels * width * inputs * bytes);
    const staging = this.#heap.take(width * inputs * bytes);
    for (let panel = 0; panel < panels; panel++) {
      const rows = Math.min(width, outputs - panel * width);
      const part = values.subarray(panel * width * inputs, (panel * width + rows) * inputs);
      const { buffer } = this.#heap.memory;
      if (wide) new Float32Array(buffer, staging, part.length).set(part);
      else new Uint16Array(buffer, staging, part.length).set(part);
      const pack = wide ? this.#c.panel_pack : this.#c.panel_pack_bf16;
      pack(rows, inputs, staging, at + panel * width * inputs * bytes);
    }
    this.#heap.give(staging);
    return { at, outputs, inputs, wide };
  }

  vector(values: Float32Array): number {
    const at = this.#heap.take(values.length * 4);
    new Float32Array(this.#heap.memory.buffer, at, values.length).set(values);
    return at;
  }
}
