/**
 * Products of few rows with weights in panels, as steps of decoding make them, by the builds of the kernels of
 * inference: `node bench/products.ts --rows 1,2,4,8,16,32,48 --inputs 512 --mib 100 --rounds 9`. One pass over so many
 * MiB of float32 weights, and over half of them that are the same weights in 16 bits, on one thread; the builds in
 * turns, medians. Beside them a plain sum of the float32 weights. Ratios mean something; milliseconds are of this
 * machine and this minute.
 */
import { missingAvx512 } from "../src/engine/kernels/machine/avx512.ts";
import { loadInferenceKernels } from "../src/engine/kernels/inference/module.ts";
import { PanelProducts, panelScratchFloats } from "../src/engine/kernels/inference/panels.ts";
import { SharedHeap } from "../src/engine/kernels/inference/sharedHeap.ts";
import { kernelVariants, variantRuns } from "../src/engine/kernels/wasm/variants.ts";
import { median, optionsOf } from "./lib/model.ts";

/** Outputs of a product: a part of a step. */
const partOutputs = 64;

const options = optionsOf({ rows: "1,2,4,8,16,32,48", inputs: "512", mib: "100", rounds: "9" });
const rowCounts = options["rows"]!.split(",").map(Number);
const [inputs, mib, rounds] = [options["inputs"], options["mib"], options["rounds"]].map(Number) as [
  number,
  number,
  number,
];
const partFloats = partOutputs * inputs;
const parts = Math.max(1, Math.floor((mib * 2 ** 20) / 4 / partFloats));
const mostRows = Math.max(...rowCounts);

const heap = new SharedHeap();
const missing = missingAvx512();
if (missing !== null) console.log(`no build for AVX-512: ${missing}`);
const builds = [
  ...kernelVariants.filter(variantRuns).map((variant) => ({ name: variant as string, variant, avx512: false })),
  ...(missing === null ? [{ name: "avx512", variant: "relaxed256" as const, avx512: true }] : []),
];
const rows = await Promise.all(
  builds.map(async ({ name, variant, avx512 }) => {
    const c = await loadInferenceKernels(variant, heap.memory, avx512);
    const products = new PanelProducts(c, null, heap.take(panelScratchFloats(c, inputs, false) * 4));
    return { name, products };
  }),
);
const [x, w, y] = [mostRows * inputs, parts * partFloats, mostRows * partOutputs].map((count) =>
  heap.take(count * 4),
) as [number, number, number];
for (const [at, count] of [
  [x, mostRows * inputs],
  [w, parts * partFloats],
] as const) {
  const floats = new Float32Array(heap.memory.buffer, at, count);
  for (let i = 0; i < count; i++) floats[i] = ((i * 7919) % 1009) / 1009 - 0.5;
}

/** Milliseconds of one pass. */
function pass(products: PanelProducts, count: number, wide: boolean): number {
  const startedAt = performance.now();
  const own = products.inputs(count, { at: x, stride: inputs });
  for (let part = 0; part < parts; part++) {
    const at = w + part * partFloats * (wide ? 4 : 2);
    const matrix = { at, outputs: partOutputs, inputs, wide, bias: 0 };
    products.part(own, matrix, { at: y, stride: partOutputs }, 0, partOutputs / products.width);
  }
  return performance.now() - startedAt;
}

function plainSum(): number {
  const floats = new Float32Array(heap.memory.buffer, w, parts * partFloats);
  const startedAt = performance.now();
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i < floats.length; i += 4) {
    a += floats[i]!;
    b += floats[i + 1]!;
    c += floats[i + 2]!;
    d += floats[i + 3]!;
  }
  if (Number.isNaN(a + b + c + d)) throw new Error("the weights are numbers");
  return performance.now() - startedAt;
}

const sums: number[] = [];
const floatMib = (parts * partFloats * 4) / 2 ** 20;
console.log(`${floatMib.toFixed(0)} MiB of float32 weights in ${inputs} inputs: ms (GFLOP/s) of a pass`);
console.log(`rows  bits${rows.map(({ name }) => name.padStart(18)).join("")}`);
for (const count of rowCounts) {
  for (const wide of [true, false]) {
    const times = rows.map(() => [] as number[]);
    for (let round = -1; round < rounds; round++) {
      rows.forEach(({ products }, which) => {
        const ms = pass(products, count, wide);
        if (round >= 0) times[which]!.push(ms);
      });
      sums.push(plainSum());
    }
    const cells = times.map((all) => {
      const ms = median(all);
      return `${ms.toFixed(2)} (${((2 * count * parts * partFloats) / ms / 1e6).toFixed(0)})`.padStart(18);
    });
    console.log(`${String(count).padStart(4)}${(wide ? "32" : "16").padStart(6)}${cells.join("")}`);
  }
}
console.log(`a plain sum of the float32 weights: ${median(sums).toFixed(2)} ms`);
