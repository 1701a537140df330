/**
 * Is the build that leans on V8's experimental pass right and worth it on this machine? One product is computed
 * by it and by the plain build: it must give the same bytes, and be faster. On a processor without 256-bit
 * vectors its wide tiles are slower.
 */
import type { KernelFunctions } from "./module.ts";

/** y[size,size] = x w^T, and odd sizes for the comparison; about 0.5 ms a time. */
const size = 256;
const oddSize = 251;
const rounds = 5;

/** Where a trial is made; the heap of tfjs is one. */
export interface TrialSpace {
  readonly memory: WebAssembly.Memory;
  /** @returns the address of at least `floats` float32. */
  scratch(floats: number): number;
}

/** @returns whether `candidate` gives the bytes of `plain` and is at least as fast. */
export function isFaithfulAndFaster(heap: TrialSpace, candidate: KernelFunctions, plain: KernelFunctions): boolean {
  const matrix = size * size;
  const x = heap.scratch(4 * matrix + Math.max(candidate.gemm_scratch_floats(), plain.gemm_scratch_floats()));
  const [w, y, z, scratch] = [1, 2, 3, 4].map((n) => x + n * matrix * 4) as [number, number, number, number];
  const numbers = new Float32Array(heap.memory.buffer, x, 2 * matrix);
  for (let i = 0; i < numbers.length; i++) numbers[i] = ((i * 7919) % 1009) / 1009 - 0.5;

  for (const n of [size, oddSize]) {
    candidate.linear_forward(n, n, n, x, w, 0, y, scratch);
    plain.linear_forward(n, n, n, x, w, 0, z, scratch);
    const [got, wanted] = [y, z].map((at) => Buffer.from(heap.memory.buffer, at, n * n * 4));
    if (!got!.equals(wanted!)) return false;
  }
  const best = [candidate, plain].map(() => Infinity);
  for (let round = 0; round < rounds; round++) {
    [candidate, plain].forEach((kernels, which) => {
      const start = performance.now();
      kernels.linear_forward(size, size, size, x, w, 0, y, scratch);
      best[which] = Math.min(best[which]!, performance.now() - start);
    });
  }
  return best[0]! <= best[1]!;
}
