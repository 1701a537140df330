/**
 * What a model's steps are computed by: a build of the wasm kernels, and where the backend may use what the machine
 * has, the build for AVX-512 and a BLAS. Either is taken only after it gave the numbers of the wasm kernels in a trial.
 */
import type { InferenceKernels } from "../kernels.ts";
import { unlessMissing } from "../machine/avx512.ts";
import type { Blas } from "../native/blas.ts";
import { openBlas } from "../native/blas.ts";
import type { KernelVariant } from "../wasm/variants.ts";
import { loadAvx512 } from "./avx512.ts";
import type { InferenceFunctions } from "./module.ts";
import { loadInferenceKernels } from "./module.ts";
import { PanelProducts, mostDirectRows, panelScratchFloats, productBlock } from "./panels.ts";
import type { SharedHeap } from "./sharedHeap.ts";

/** Plain data: it crosses to threads. */
export interface InferenceBuild {
  readonly variant: KernelVariant;
  readonly avx512: boolean;
  /** Products of many rows by the machine's BLAS. */
  readonly blas: boolean;
}

export interface OpenBuild {
  readonly build: InferenceBuild;
  readonly c: InferenceFunctions;
  readonly blas: Blas | null;
}

/** @throws backend_unavailable */
export async function openBuild(build: InferenceBuild, memory: WebAssembly.Memory): Promise<OpenBuild> {
  const { variant, avx512, blas } = build;
  return {
    build,
    c: await loadInferenceKernels(variant, memory, avx512),
    blas: blas ? await openBlas(memory) : null,
  };
}

/**
 * @param heap for what the trial needs
 * @returns the fastest build that gives a row the bytes of the wasm kernels, open
 * @throws backend_unavailable
 */
export async function chooseBuild({ variant, native }: InferenceKernels, heap: SharedHeap): Promise<OpenBuild> {
  const plain = await openBuild({ variant, avx512: false, blas: false }, heap.memory);
  if (!native) return plain;
  const { c } = plain;
  // Panels and pages are as wide as those of this variant alone.
  const machine = variant === "relaxed256" ? await unlessMissing(loadAvx512(heap.memory)) : null;
  const wide = { ...c, ...machine };
  const avx512 = machine !== null && sameProducts(heap, c, { c: wide, blas: null }, [1, 4, 7, 16, 45]);
  const library = await openBlas(heap.memory);
  const blas = sameProducts(heap, c, { c, blas: library }, [mostDirectRows + 1, 64, 100, 130]);
  return { build: { variant, avx512, blas }, c: avx512 ? wide : c, blas: blas ? library : null };
}

/** Whether products have the numbers of `c` for so many rows, on shapes that meet the edges of tiles and blocks. */
function sameProducts(
  heap: SharedHeap,
  c: InferenceFunctions,
  other: Pick<OpenBuild, "c" | "blas">,
  rowCounts: readonly number[],
): boolean {
  const [mostRows, inputs, width] = [Math.max(...rowCounts), 2 * productBlock, c.panel_width()];
  const outputs = 11 * width;
  const sizes = [mostRows * inputs, outputs * inputs, mostRows * outputs, mostRows * outputs];
  sizes.push(Math.max(...[c, other.c].map((build) => panelScratchFloats(build, inputs, true))));
  const blocks = sizes.map((size) => heap.take(size * 4)) as [number, number, number, number, number];
  const [x, w, wanted, got, scratch] = blocks;
  const floats = (at: number, size: number): Float32Array => new Float32Array(heap.memory.buffer, at, size);
  fill(floats(x, mostRows * inputs), 7919);
  fill(floats(w, outputs * inputs), 6997);
  const matrix = { at: w, outputs, inputs, wide: true, bias: 0 };
  const agrees = rowCounts.every((rows) =>
    [11, 8, 5].every((panels) => {
      for (const [build, to] of [[{ c, blas: null }, wanted] as const, [other, got] as const]) {
        const products = new PanelProducts(build.c, build.blas, scratch);
        const left = products.inputs(rows, { at: x, stride: inputs });
        products.part(left, matrix, { at: to, stride: outputs }, 11 - panels, panels);
      }
      const expected = floats(wanted, rows * outputs);
      return floats(got, rows * outputs).every(
        (value, i) => i % outputs < (11 - panels) * width || value === expected[i],
      );
    }),
  );
  for (const block of blocks) heap.give(block);
  return agrees;
}

/** Numbers of either sign that look random. */
function fill(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] = ((i * factor) % 1009) / 1009 - 0.5;
}
