/**
 * Peak memory of a training: `node bench/memory.ts --shape m --kernels wasm-simd`. Three updates of the shape on one
 * thread, in a process of its own; beside it stand 16 bytes a parameter (weight, two moments, gradient) and the
 * activations by the formula of src/engine/train/memory.ts.
 */
import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../src/engine/kernels/index.ts";
import type { KernelChoice } from "../src/engine/kernels/index.ts";
import { AdamW } from "../src/engine/train/adamw.ts";
import type { MicroBatch } from "../src/engine/train/loss.ts";
import { estimateTrainingMemory, parameterCopies, overheadBytes } from "../src/engine/train/memory.ts";
import { trainStep } from "../src/engine/train/step.ts";
import { countParameters } from "../src/ops/architectures/llama.ts";
import { adamwSettings, configOf, optionsOf, randomWeights, shapes } from "./lib/model.ts";

const options = optionsOf({ shape: "m", kernels: "wasm-simd" });
const { V, T, B } = shapes[options["shape"]!]!;
const config = configOf(shapes[options["shape"]!]!);
await activateTfjs("wasm");
const before = process.memoryUsage().rss;
const { kernels } = await kernelsFor("wasm", options["kernels"] as KernelChoice);
const weights = randomWeights(config);
const optimizer = new AdamW(kernels, adamwSettings, weights, null);

async function* batches(): AsyncGenerator<MicroBatch> {
  const ids = Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % V);
  yield { ids, targets: ids.map((id) => (id * 31 + 1) % V), sequences: B, length: T };
}

for (let step = 1; step <= 3; step++) {
  const at = { learningRate: 1e-4, clip: 1, step };
  await trainStep({ kernels, config, weights }, optimizer, batches(), at, new AbortController().signal);
}
const heap = (tf.backend() as unknown as { wasm: { asm: { memory: WebAssembly.Memory } } }).wasm.asm.memory.buffer;
const parameters = countParameters(config).total;
const activations = estimateTrainingMemory(config, B, T) - parameterCopies * 4 * parameters - overheadBytes;
const allowed = 16 * parameters + activations;
const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
console.log(`shape ${options["shape"]}, ${kernels.name}: ${(parameters / 1e6).toFixed(1)} M parameters`);
console.log(`16 bytes a parameter ${mib(16 * parameters)} + activations ${mib(activations)} = ${mib(allowed)}`);
console.log(`wasm heap ${mib(heap.byteLength)}: ${(heap.byteLength / allowed).toFixed(2)} of that`);
console.log(
  `resident at most ${mib(peak)}, of which ${mib(before)} before the kernels: ${(peak / allowed).toFixed(2)}`,
);
