/**
 * `crossEntropy` with the three products of the head by the machine's BLAS and the softmax between them by the wasm
 * kernels. Rows go through in the chunks of c/crossEntropy.c, so that [R,V] never exists.
 */
import type { CrossEntropyPass } from "../wasm/crossEntropy.ts";
import type { KernelHeap } from "../wasm/heap.ts";
import type { KernelFunctions } from "../wasm/module.ts";
import type { Blas } from "./blas.ts";

export function blasCrossEntropy(heap: KernelHeap, c: KernelFunctions, blas: Blas): CrossEntropyPass {
  const plain = (at: number) => ({ at, transposed: false });
  const turned = (at: number) => ({ at, transposed: true });
  return (r, v, d, { x, head, targets, dx, dHead }) => {
    const chunk = c.cross_entropy_chunk_rows(v);
    const logits = heap.scratch(Math.min(chunk, r) * v);
    let loss = 0;
    for (let start = 0; start < r; start += chunk) {
      const rows = Math.min(chunk, r - start);
      const offset = start * d * 4;
      blas.multiply(rows, v, d, plain(x + offset), turned(head), logits, false);
      loss += c.cross_entropy_rows(rows, v, logits, targets + start * 4, dx === 0 ? 0 : 1);
      if (dx === 0) continue;
      blas.multiply(rows, d, v, plain(logits), plain(head), dx + offset, false);
      blas.multiply(v, d, rows, turned(logits), plain(x + offset), dHead, start > 0);
    }
    return loss;
  };
}
