/**
 * Does the build for AVX-512 give the numbers of the wasm kernels on this machine? A training may be resumed by either,
 * so it is taken only where the bytes are the same: both compute the same small things, on shapes that meet the edges
 * of vectors and tiles.
 */
import type { KernelFunctions } from "../wasm/module.ts";
import type { TrialSpace } from "../wasm/trial.ts";
import type { MachineFunctions } from "./avx512.ts";

type Functions = Pick<KernelFunctions, keyof MachineFunctions>;

/** What one kernel is asked: blocks of floats, filled alike for both builds and compared whole when it has run. */
interface Trial {
  readonly blocks: readonly number[];
  /** @returns its result, where it has one */
  run(c: Functions, at: readonly number[], scratch: number): unknown;
}

const [t, n, k, h] = [70, 4, 2, 20];
const [query, key, lse, size, rows, wide] = [t * n * h, t * k * h, n * t, 77, 3, 41];

const trials: readonly Trial[] = [
  {
    blocks: [query, key, key, query, lse],
    run: (c, at, scratch) => c.attention_forward(1, t, t, n, k, h, 0, ...at, scratch),
  },
  {
    blocks: [query, key, key, query, lse, query, query, key, key],
    run: (c, at, scratch) => c.attention_backward(1, t, n, k, h, ...at, scratch),
  },
  { blocks: [size, size, size], run: (c, at) => c.swiglu_forward(size, ...at) },
  { blocks: [size, size, size, size, size], run: (c, at) => c.swiglu_backward(size, ...at) },
  { blocks: [rows * wide, wide, rows * wide], run: (c, at) => c.rms_norm_forward(rows, wide, 1e-5, ...at) },
  {
    blocks: [rows * wide, wide, rows * wide, rows * wide, wide],
    run: (c, at, scratch) => c.rms_norm_backward(rows, wide, 1e-5, ...at, scratch),
  },
  {
    blocks: [rows * 2 * h, (rows * h) / 2, (rows * h) / 2, rows * 2 * h],
    run: (c, [x = 0, cos = 0, sin = 0, y = 0]) => c.rope_rotate(1, rows, 2, h, x, cos, sin, -1, y),
  },
  { blocks: [size, size], run: (c, at) => c.to_bf16(size, ...at) },
  {
    blocks: [size, size, size, size],
    run: (c, at) => c.adamw_step(size, ...at, 0.3, 0.9, 0.1, 0.95, 0.05, 0.999, 1e-3, 0.4, 1e-8),
  },
  { blocks: [size, size], run: (c, at) => c.add_in_place(size, ...at) },
  { blocks: [size], run: (c, at) => c.sum_of_squares(size, ...at) },
];
const scratchFloats = 131_072;

/** @returns whether `own` gives the bytes of `wasm` */
export function givesSameBytes(space: TrialSpace, own: Functions, wasm: Functions): boolean {
  const most = Math.max(...trials.map(({ blocks }) => sum(blocks)));
  const start = space.scratch(most + scratchFloats);
  return trials.every(({ blocks, run }) => {
    const length = sum(blocks);
    const at = blocks.map((_, i) => start + 4 * sum(blocks.slice(0, i)));
    const [wanted, got] = [wasm, own].map((functions) => {
      const values = new Float32Array(space.memory.buffer, start, length);
      // Second moments are not negative; nor do the others mind.
      for (let i = 0; i < length; i++) values[i] = ((i * 7919) % 1009) / 1009;
      const result = run(functions, at, start + 4 * most);
      return { result, bytes: Buffer.from(Uint8Array.from(new Uint8Array(space.memory.buffer, start, length * 4))) };
    });
    return Object.is(wanted!.result, got!.result) && wanted!.bytes.equals(got!.bytes);
  });
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
