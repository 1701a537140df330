/**
 * The kernels of training that are built for AVX-512 give the bits of the wasm build `relaxed256`, on shapes that meet
 * the edges of vectors, tiles and blocks, and on numbers that are none. (Of a NaN WebAssembly leaves sign and payload
 * open: they are compared as numbers.)
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { missingAvx512 } from "../../../src/engine/kernels/machine/avx512.ts";
import type { MachineFunctions } from "../../../src/engine/kernels/native/avx512.ts";
import { loadAvx512 } from "../../../src/engine/kernels/native/avx512.ts";
import { openNativeKernels } from "../../../src/engine/kernels/native/createNativeKernels.ts";
import { givesSameBytes } from "../../../src/engine/kernels/native/trial.ts";
import { KernelHeap } from "../../../src/engine/kernels/wasm/heap.ts";
import { loadKernels } from "../../../src/engine/kernels/wasm/module.ts";
import { variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { CodedError } from "../../../src/ops/errors.ts";

const skip = missingAvx512() ?? (variantRuns("relaxed256") ? false : "this JavaScript engine does not run relaxed256");
await activateTfjs("wasm");
const heap = new KernelHeap();
const scratchFloats = 2 ** 18;
const special = [0, -0, 1e-45, -1e-40, 88.7, 90, -87, -103, -105, 3e38, 3.4e38, Infinity, -Infinity, NaN];

type Run = (c: MachineFunctions, at: readonly number[], scratch: number) => unknown;

/** What both builds leave in the same blocks, and give back. @param strange numbers put into the first block, or all */
async function assertSame(name: string, blocks: readonly number[], run: Run, strange: readonly number[] = []) {
  const total = blocks.reduce((sum, size) => sum + size, 0);
  const start = heap.scratch(total + 16 + scratchFloats);
  const at = blocks.map((_, i) => start + 4 * blocks.slice(0, i).reduce((sum, size) => sum + size, 0));
  const builds = [await loadKernels("relaxed256", heap.memory), await loadAvx512(heap.memory)];
  const [wanted, got] = builds.map((c) => {
    const values = new Float32Array(heap.memory.buffer, start, total + 16 + scratchFloats);
    // What nobody has written is NaN, so that nobody can read it unseen.
    values.fill(NaN, total + 16);
    seededStream(3, name).fillNormal(values.subarray(0, total + 16), 1);
    strange.forEach((value, i) => (values[(i * 37) % total] = value));
    const result = run(c, at, start + 4 * (total + 16));
    return [result, ...values.subarray(0, total + 16)];
  });
  assert.deepEqual(got, wanted, name);
}

describe("the build for AVX-512 of training's kernels", { skip }, () => {
  for (const [b, t, n, k, h] of [
    [1, 1, 1, 1, 1],
    [1, 5, 1, 1, 2],
    [2, 33, 4, 2, 6],
    [1, 64, 2, 2, 8],
    [2, 65, 6, 3, 20],
    [1, 131, 2, 1, 17],
    [1, 97, 3, 1, 32],
    [1, 200, 2, 2, 64],
    [1, 70, 2, 1, 80],
  ] as const) {
    const [query, key] = [b * t * n * h, b * t * k * h];
    for (const [what, strange] of [
      ["finite", []],
      ["with NaN, infinity and large numbers", [NaN, 1e38, Infinity, -Infinity]],
    ] as const) {
      test(`attention ${b} x ${t}, ${n} heads on ${k} of ${h}, ${what}`, async () => {
        const forward: Run = (c, at, scratch) => c.attention_forward(b, t, t, n, k, h, 0, ...at.slice(0, 5), scratch);
        const blocks = [query, key, key, query, b * n * t, query, query, key, key];
        const both: Run = (c, at, scratch) => {
          forward(c, at, scratch);
          c.attention_backward(b, t, n, k, h, ...at, scratch);
        };
        await assertSame("attention", blocks, both, strange);
      });
    }
  }

  test("attention of a few queries after others, whose keys lie before them", async () => {
    const [b, t, s, n, k, h] = [1, 9, 100, 4, 2, 24];
    const blocks = [b * t * n * h, b * s * k * h, b * s * k * h, b * t * n * h, b * n * t];
    const run: Run = (c, at, scratch) => c.attention_forward(b, t, s, n, k, h, s - t, ...at, scratch);
    await assertSame("attention with an offset", blocks, run);
  });

  test("what goes number by number: any size, and numbers that are none", async () => {
    for (const size of [1, 3, 4, 15, 16, 17, 31, 64, 99, 250]) {
      const of = (blocks: number) => new Array<number>(blocks).fill(size);
      await assertSame("swiglu", of(3), (c, at) => c.swiglu_forward(size, ...at), special);
      await assertSame("swiglu backward", of(5), (c, at) => c.swiglu_backward(size, ...at), special);
      await assertSame("to_bf16", of(2), (c, at) => c.to_bf16(size, ...at), special.slice(0, size));
      await assertSame("sum of squares", of(1), (c, at) => c.sum_of_squares(size, ...at));
      await assertSame("scale", of(1), (c, [x = 0]) => c.scale_in_place(size, x, 0.3), special);
      await assertSame("addition", of(2), (c, at) => c.add_in_place(size, ...at), special);
      const scalars = [0.3, 0.9, 0.1, 0.95, 0.05, 0.999, 1e-3, 0.4, 1e-8];
      await assertSame("adamw", of(4), (c, at) => c.adamw_step(size, ...at, ...scalars), special);
    }
  });

  test("rows of any width: norms, rotations, sums of exponentials, rows of a table", async () => {
    for (const width of [1, 2, 7, 16, 18, 33, 63, 64, 130]) {
      const [rows, all] = [67, 67 * width];
      await assertSame("norm", [all, width, all], (c, at) => c.rms_norm_forward(rows, width, 1e-5, ...at));
      const backward: Run = (c, at, scratch) => c.rms_norm_backward(rows, width, 1e-5, ...at, scratch);
      await assertSame("norm backward", [all, width, all, all, width], backward);
      const rotate: Run = (c, [x = 0, cos = 0, sin = 0, y = 0]) =>
        c.rope_rotate(1, 5, 3, 2 * width, x, cos, sin, -1, y);
      await assertSame("rotation", [30 * width, 5 * width, 5 * width, 30 * width], rotate);
      for (const strange of [[], [NaN], [Infinity], [-Infinity, 90]]) {
        const losses: Run = (c, [x = 0, targets = 0]) => {
          new Int32Array(heap.memory.buffer, targets, rows).forEach((_, i, ids) => (ids[i] = i % 9 ? i % width : -1));
          return c.cross_entropy_rows(rows, width, x, targets, 1);
        };
        await assertSame("losses", [all, rows], losses, strange);
      }
      const scatter: Run = (c, [dy = 0, table = 0, ids = 0]) => {
        new Int32Array(heap.memory.buffer, ids, rows).forEach((_, i, list) => (list[i] = (i * 7) % 11));
        c.embedding_scatter(rows, 11, width, ids, dy, table);
      };
      await assertSame("scatter", [all, 11 * width, rows], scatter);
    }
    await assertSame("a long row", [5000, 1], (c, [x = 0, target = 0]) => {
      new Int32Array(heap.memory.buffer, target, 1)[0] = 4999;
      return c.cross_entropy_rows(1, 5000, x, target, 1);
    });
  });

  test("it goes on where the heap has grown", async () => {
    const memory = new WebAssembly.Memory({ initial: 2 });
    const [own, size] = [await loadAvx512(memory), 20];
    memory.grow(100);
    const at = memory.buffer.byteLength - 4 * size;
    new Float32Array(memory.buffer, at, size).fill(3);
    assert.equal(own.sum_of_squares(size, at), 9 * size);
  });

  test("is taken where the fastest wasm build would be, and nobody insists on one", async () => {
    const [free, bound] = [await openNativeKernels(), await openNativeKernels({ variant: "relaxed256" })];
    const wasm = await loadKernels("relaxed256", heap.memory);
    const exports = (kernels: object): boolean => kernels.toString().includes("native code");
    assert.ok(exports(bound.functions.attention_forward), "the function of the wasm module itself");
    assert.equal(exports(free.functions.attention_forward), free.kernels.name !== "wasm-relaxed256");
    assert.equal(bound.kernels.name, "wasm-relaxed256", "the name tells the bytes, which are the same");
    assert.ok(givesSameBytes(heap, await loadAvx512(heap.memory), wasm));
  });

  test("a build with one other bit anywhere is not taken", async () => {
    const [own, wasm] = [await loadAvx512(heap.memory), await loadKernels("relaxed256", heap.memory)];
    const off = (size: number, gate: number, up: number, y: number): void => {
      own.swiglu_forward(size, gate, up, y);
      new Int32Array(heap.memory.buffer, y, size)[size - 1]! ^= 1;
    };
    assert.equal(
      givesSameBytes(heap, { ...own, swiglu_forward: off as MachineFunctions["swiglu_forward"] }, wasm),
      false,
    );
  });
});

test("a library that is not there is named", { skip: missingAvx512() ?? false }, async () => {
  await assert.rejects(loadAvx512(heap.memory, "nosuch.so"), (error) => {
    assert.ok(error instanceof CodedError);
    assert.equal(error.code, "backend_unavailable");
    assert.match(error.message, /no library of kernels for AVX-512 was found \(nosuch\.so\)/);
    return true;
  });
});
