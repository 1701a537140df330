/**
 * The products of `linear` by the machine's BLAS. BLAS chooses among its inner kernels by shape, so the bytes of a
 * row may depend on how many rows go with it, which they never do with the wasm kernels. Training does not mind.
 * Generation and scoring do: there a request must get the same numbers alone, in a batch and in any company.
 *
 * So without a gradient BLAS computes only what it computes exactly as the wasm kernels do: the sum over K in blocks
 * of 256, each one ascending chain of fused multiply-adds, the blocks added up in order. OpenBLAS's packed product
 * for AVX-512 (SkylakeX) is that, block by block; its path for small matrices is not and is avoided; other
 * processors' kernels and other libraries may differ. Whether this one agrees is found out by trial, once; where it
 * does not, generation and scoring stay with the wasm kernels, and so do a few rows (decoding) always: those read
 * the weights once and in place.
 */
import type * as tf from "@tensorflow/tfjs";
import type { KernelHeap } from "../wasm/heap.ts";
import type { LinearProducts } from "../wasm/linear.ts";
import type { Blas } from "./blas.ts";

/** Rows up to which c/linear.c, which streams the weights, is no slower than packing them (measured). */
const directRows = 4;

/** Steps of the summed index that the wasm kernels take as a block: KC of c/gemm.h; the trial tells if it moved. */
const productBlock = 256;

/** OpenBLAS takes another path for products of at most so many multiplications, which rounds in another order. */
const smallProduct = 100 ** 3;

/** @returns the products by `blas`, and by `wasm` where that is faster or its bytes are wanted. */
export function blasProducts(heap: KernelHeap, wasm: LinearProducts, blas: Blas): LinearProducts {
  const plain = (at: number) => ({ at, transposed: false });
  const turned = (at: number) => ({ at, transposed: true });
  const blocks = blockedForward(blas);
  const agrees = blocksAgree(heap, wasm, blocks);
  return {
    forward(r, o, i, x, w, bias, y, wantGradient) {
      if (wantGradient) {
        if (bias !== 0) repeatRow(heap, bias, y, r, o);
        blas.multiply(r, o, i, plain(x), turned(w), y, bias !== 0);
      } else if (agrees && r > directRows && isLarge(r, o, i)) {
        blocks(r, o, i, x, w, y);
        if (bias !== 0) addRow(heap, bias, y, r, o);
      } else wasm.forward(r, o, i, x, w, bias, y, wantGradient);
    },
    gradients(r, o, i, { dy, x, w, dx, dw }) {
      blas.multiply(r, i, o, plain(dy), plain(w), dx, false);
      blas.multiply(o, i, r, turned(dy), plain(x), dw, false);
    },
  };
}

type Blocked = (r: number, o: number, i: number, x: number, w: number, y: number) => void;

/** y[R,O] = x[R,I] w[O,I]^T, one call for each block of the summed index. */
function blockedForward(blas: Blas): Blocked {
  return (r, o, i, x, w, y) => {
    for (let start = 0; start < i; start += productBlock) {
      const a = { at: x + 4 * start, transposed: false, stride: i };
      const b = { at: w + 4 * start, transposed: true, stride: i };
      blas.multiply(r, o, Math.min(productBlock, i - start), a, b, y, start > 0);
    }
  };
}

/** Whether every block is beyond the path for small matrices. */
function isLarge(r: number, o: number, i: number): boolean {
  const smallest = i % productBlock === 0 ? productBlock : i % productBlock;
  return r * o * smallest > smallProduct;
}

/** Whether BLAS gives the numbers of the wasm kernels, on a few shapes that meet the edges of its tiles. */
function blocksAgree(heap: KernelHeap, wasm: LinearProducts, blocks: Blocked): boolean {
  const [mostRows, outputs, inputs] = [130, 801, 2 * productBlock];
  const shapes = [
    [mostRows, inputs],
    [outputs, inputs],
    [mostRows, outputs],
    [mostRows, outputs],
  ] as const;
  const tensors = shapes.map((shape) => heap.output<tf.Tensor2D>(shape));
  const [x, w, wanted, got] = tensors.map((tensor) => heap.at(tensor)) as [number, number, number, number];
  const floats = (at: number, size: number): Float32Array => new Float32Array(heap.memory.buffer, at, size);
  fill(floats(x, mostRows * inputs), 7919);
  fill(floats(w, outputs * inputs), 6997);
  const agrees = [5, 12, 16, 31, mostRows].every((rows) => {
    wasm.forward(rows, outputs, inputs, x, w, 0, wanted, false);
    blocks(rows, outputs, inputs, x, w, got);
    const expected = floats(wanted, rows * outputs);
    return floats(got, rows * outputs).every((value, i) => value === expected[i]);
  });
  for (const tensor of tensors) tensor.dispose();
  return agrees;
}

/** Numbers of either sign that look random. */
function fill(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] = ((i * factor) % 1009) / 1009 - 0.5;
}

/** Writes a row of `columns` float32 at `from` to each of the rows at `to`. */
export function repeatRow(heap: KernelHeap, from: number, to: number, rows: number, columns: number): void {
  const bytes = new Uint8Array(heap.memory.buffer);
  const rowBytes = columns * 4;
  for (let row = 0; row < rows; row++) bytes.copyWithin(to + row * rowBytes, from, from + rowBytes);
}

/** Adds a row of `columns` float32 at `from` to each of the rows at `to`. */
function addRow(heap: KernelHeap, from: number, to: number, rows: number, columns: number): void {
  const added = new Float32Array(heap.memory.buffer, from, columns);
  const values = new Float32Array(heap.memory.buffer, to, rows * columns);
  for (let row = 0, at = 0; row < rows; row++) {
    // A float64 sum of two float32 rounds to what a float32 addition gives.
    for (let column = 0; column < columns; column++, at++) values[at] = values[at]! + added[column]!;
  }
}
