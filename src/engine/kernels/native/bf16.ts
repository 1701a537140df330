/**
 * Mixed precision: float32 matrices are rounded to bfloat16 on their way into a product, which sums in float32 and
 * gives float32. Weights, gradients, moments and everything between products stay float32, so nothing of the model
 * changes but the rounding of operands: each keeps 8 bits of precision, a relative error of 2^-9 at most.
 * (Micikevicius et al. 2018, arXiv:1710.03740; with bfloat16's range no loss scaling is needed: Kalamkar et al. 2019,
 * arXiv:1905.12322.)
 *
 * For training only: without a gradient the operands are rounded too, so that a validation loss is that of what is
 * trained. Nothing is promised of single rows, as `blas.ts` promises nothing.
 */
import type { KernelHeap } from "../wasm/heap.ts";
import type { LinearProducts } from "../wasm/linear.ts";
import type { KernelFunctions } from "../wasm/module.ts";
import type { Blas, Operand } from "./blas.ts";
import { repeatRow } from "./linear.ts";

/** Matrices of two bytes an element, made in one block of scratch. */
class Rounded {
  readonly #heap: KernelHeap;
  readonly #c: KernelFunctions;

  /** @param heap whose scratch is free for this: not that of the kernels that call it */
  constructor(heap: KernelHeap, c: KernelFunctions) {
    this.#heap = heap;
    this.#c = c;
  }

  /** @returns the addresses of matrices of these sizes, given by address and size; good until the next call. */
  of(matrices: readonly (readonly [at: number, size: number])[]): number[] {
    // Each begins at a multiple of 4 bytes.
    const floats = matrices.map(([, size]) => Math.ceil(size / 2));
    let next = this.#heap.scratch(floats.reduce((sum, count) => sum + count));
    return matrices.map(([from, size], i) => {
      const to = next;
      this.#c.to_bf16(size, from, to);
      next += floats[i]! * 4;
      return to;
    });
  }
}

const plain = (at: number): Operand => ({ at, transposed: false });
const turned = (at: number): Operand => ({ at, transposed: true });

/** @returns the products of `linear` in mixed precision; each operand is rounded once. */
export function bf16Linear(heap: KernelHeap, c: KernelFunctions, products: Blas): LinearProducts {
  const rounded = new Rounded(heap, c);
  return {
    forward(r, o, i, x, w, bias, y) {
      if (bias !== 0) repeatRow(heap, bias, y, r, o);
      const [left, right] = rounded.of([
        [x, r * i],
        [w, o * i],
      ]) as [number, number];
      products.multiply(r, o, i, plain(left), turned(right), y, bias !== 0);
    },
    gradients(r, o, i, { dy, x, w, dx, dw }) {
      const [dyRounded, xRounded, wRounded] = rounded.of([
        [dy, r * o],
        [x, r * i],
        [w, o * i],
      ]) as [number, number, number];
      products.multiply(r, i, o, plain(dyRounded), plain(wRounded), dx, false);
      products.multiply(o, i, r, turned(dyRounded), plain(xRounded), dw, false);
    },
  };
}

/** @returns products that take float32 operands and round them; these must have no gaps between their rows. */
export function roundingBlas(heap: KernelHeap, c: KernelFunctions, products: Blas): Blas {
  const rounded = new Rounded(heap, c);
  return {
    name: products.name,
    multiply(m, n, k, a, b, at, accumulate, strideC) {
      const [left, right] = rounded.of([
        [a.at, m * k],
        [b.at, k * n],
      ]) as [number, number];
      const operands = [
        { ...a, at: left },
        { ...b, at: right },
      ] as const;
      products.multiply(m, n, k, ...operands, at, accumulate, strideC);
    },
  };
}
