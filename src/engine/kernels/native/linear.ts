/**
 * The products of `linear` by the machine's BLAS. A few rows without a gradient (decoding) go the way of the wasm
 * kernels, which read the weights once and in place; BLAS would pack them first.
 *
 * BLAS chooses among its inner kernels by shape, so the bytes of a row may depend on how many rows go with it,
 * which they never do with the wasm kernels. What is computed alone is therefore the same always, as each request
 * of an evaluation is (`infer/score.ts`), but not what is cut into steps of other sizes.
 */
import type { KernelHeap } from "../wasm/heap.ts";
import type { LinearProducts } from "../wasm/linear.ts";
import type { Blas } from "./blas.ts";

/** Rows up to which c/linear.c, which streams the weights, is no slower than packing them (measured). */
const directRows = 4;

/** @returns the products by `blas`, and by `wasm` where that is faster. */
export function blasProducts(heap: KernelHeap, wasm: LinearProducts, blas: Blas): LinearProducts {
  const plain = (at: number) => ({ at, transposed: false });
  const turned = (at: number) => ({ at, transposed: true });
  return {
    forward(r, o, i, x, w, bias, y, wantGradient) {
      if (r <= directRows && !wantGradient) return wasm.forward(r, o, i, x, w, bias, y, wantGradient);
      if (bias !== 0) repeatRow(heap, bias, y, r, o);
      blas.multiply(r, o, i, plain(x), turned(w), y, bias !== 0);
    },
    gradX: (r, o, i, dy, w, dx) => blas.multiply(r, i, o, plain(dy), plain(w), dx, false),
    gradW: (r, o, i, dy, x, dw) => blas.multiply(o, i, r, turned(dy), plain(x), dw, false),
  };
}

/** Writes a row of `columns` float32 at `from` to each of the rows at `to`. */
function repeatRow(heap: KernelHeap, from: number, to: number, rows: number, columns: number): void {
  const bytes = new Uint8Array(heap.memory.buffer);
  const rowBytes = columns * 4;
  for (let row = 0; row < rows; row++) bytes.copyWithin(to + row * rowBytes, from, from + rowBytes);
}
