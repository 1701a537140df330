/**
 * The webgpu backend's speed: `node bench/webgpu.ts --adapter NAME --shapes s --sequences 2 --sizes 256,512 --rounds 3
 * --stock 1 --soak 0 --python python3`. Rates of matrix products by size and precision beside what the device reaches
 * without memory, tokens a second of whole training updates beside the same model on stock tfjs-webgpu, the share of
 * that time in which the device computes, and PyTorch on the same GPU where that python has CUDA: all in one run.
 * With `--soak N`, N more updates, and the memory of the device before and after. Defaults depend on the adapter.
 */
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import { startWebgpu } from "../src/engine/backends/webgpuRuntime.ts";
import { createWebgpuKernels } from "../src/engine/kernels/webgpu/createWebgpuKernels.ts";
import { Gpu } from "../src/engine/kernels/webgpu/gpu.ts";
import type { Kernels } from "../src/engine/kernels/kernels.ts";
import { deviceMatrices, type MatrixOps } from "../src/engine/kernels/webgpu/matrixOps.ts";
import { familyOf, makeMultiply, type Multiply } from "../src/engine/kernels/webgpu/products.ts";
import { defineProgram, unrolled } from "../src/engine/kernels/webgpu/program.ts";
import { AdamW } from "../src/engine/train/adamw.ts";
import { deferredUpdates } from "../src/engine/train/deferredUpdates.ts";
import { localGradients } from "../src/engine/train/gradients.ts";
import type { MicroBatch, Model } from "../src/engine/train/loss.ts";
import { LossScale } from "../src/engine/train/lossScale.ts";
import { immediateUpdates, type Updates } from "../src/engine/train/updates.ts";
import { GpuClock } from "./lib/gpuClock.ts";
import { adamwSettings, configOf, median, optionsOf, randomWeights, shapes, type Shape } from "./lib/model.ts";
import { stockKernels } from "./lib/stockKernels.ts";
import { openTorchPeer, type TorchPeer } from "./lib/torchPeer.ts";

const asked = optionsOf({
  ...{ adapter: "", shapes: "", sequences: "", sizes: "", rounds: "3", stock: "1", soak: "0", python: "python3" },
});
const webgpu = { adapter: asked["adapter"] || null, software: "named", memoryBytes: null } as const;
const { adapter, device, faults, buffers } = await startWebgpu(webgpu);
await activateTfjs("webgpu");
const clock = GpuClock.on(device);
const gpu = new Gpu();
const family = familyOf(gpu.device);
const [matrices, noMatrices] = matricesHere();
const rounds = Number(asked["rounds"]);
const peer = await openTorchPeer(asked["python"]!);
const never = new AbortController().signal;
/** Updates that are timed together, so that what is computed ahead counts. */
const updatesARound = adapter.software ? 1 : 8;
/** Times that memory is told of in a soak, but for its beginning. */
const soakParts = 4;

console.log(`${adapter.name} (${adapter.description}); ${adapter.features.join(", ") || "no features"}; ${family}`);
console.log(`matrices of subgroups: ${matrices?.name ?? noMatrices}`);
console.log(`peer: ${peer ? `${peer.name}, ${peer.cuda ? "CUDA" : "no CUDA"}` : "no PyTorch"}`);
await products(peer);
for (const name of (asked["shapes"] || (adapter.software ? "s" : "s,124m,1.1b")).split(",")) {
  const shape = shapes[name]!;
  const B = Number(asked["sequences"] || (adapter.software ? 2 : shape.B));
  await training(name, { ...shape, B }, peer);
}
peer?.close();
await faults.settle();
process.exit(0);

/** What multiplies halves by matrices of subgroups (tensor cores), or why nothing does. */
function matricesHere(): [MatrixOps, null] | [null, string] {
  try {
    return [deviceMatrices(gpu.device, gpu.matrixConfigs), null];
  } catch (error) {
    return [null, (error as Error).message];
  }
}

/** Seconds of the fastest of a few runs of `work`, device included. */
async function fastest(work: () => void): Promise<number> {
  work();
  await gpu.finished();
  let best = Infinity;
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    work();
    await gpu.finished();
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  return best;
}

/** Multiply-adds without memory: eight independent chains of vectors in each invocation. */
async function ceiling(): Promise<number> {
  const [steps, groups, size, chains] = [512, adapter.software ? 64 : 8192, 64, 8];
  const program = defineProgram({
    name: "ceiling",
    buffers: [{ name: "y", write: true }],
    numbers: [["steps", "u32"]],
    body: `@compute @workgroup_size(${size})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let x = f32(id.x) * 1e-9;
  ${unrolled(chains, (i) => `var v${i} = vec4f(x + ${i}.0);`)}
  for (var i = 0u; i < p.steps; i++) {
    ${unrolled(chains, (i) => `v${i} = fma(v${i}, vec4f(0.999), vec4f(x));`)}
  }
  y[id.x] = dot(${Array.from({ length: chains }, (_, i) => `v${i}`).join(" + ")}, vec4f(1.0));
}`,
  });
  const y = gpu.output([groups * size]);
  const seconds = await fastest(() => gpu.run(program, [y], { groups: [groups], numbers: [steps] }));
  y.dispose();
  return (2 * 4 * chains * steps * groups * size) / seconds / 1e9;
}

async function products(torch: TorchPeer | null): Promise<void> {
  const most = await ceiling();
  console.log(
    `\nmultiply-adds without memory: ${most.toFixed(1)} GFLOP/s; products of squares, GFLOP/s and share of that`,
  );
  const multiplications: [string, Multiply][] = [["f32", makeMultiply(gpu, { family, f16: false })]];
  const hasHalves = device.features.has("shader-f16");
  if (hasHalves) multiplications.push(["f16 inputs", makeMultiply(gpu, { family, f16: true })]);
  if (matrices) {
    multiplications.push(["f16 by matrices", makeMultiply(gpu, { family: "matrices", f16: true, matrices })]);
  }
  const sizes = (asked["sizes"] || (adapter.software ? "256,512" : "1024,2048,4096,8192")).split(",").map(Number);
  for (const n of sizes) {
    const [a, b] = [tf.randomNormal([n, n]), tf.randomNormal([n, n])];
    const y = gpu.output([n, n]);
    const row = (title: string, seconds: number): void => {
      const rate = (2 * n ** 3) / seconds / 1e9;
      const share = `${((100 * rate) / most).toFixed(0)} %`.padStart(7);
      console.log(`  ${String(n).padStart(5)} ${title.padEnd(24)} ${rate.toFixed(1).padStart(10)} ${share}`);
    };
    for (const [kind, multiply] of multiplications) {
      for (const form of ["nt", "nn", "tn"] as const) {
        row(`${form} ${kind}`, await fastest(() => multiply({ form, m: n, n, k: n, a, b, y })));
      }
    }
    if (asked["stock"] === "1") {
      const stock = (): void => tf.dispose(tf.matMul(a as tf.Tensor2D, b as tf.Tensor2D, false, true));
      row("nt stock tfjs", await fastest(stock));
    }
    for (const [title, options] of torch?.cuda
      ? ([
          ["PyTorch f32", {}],
          ["PyTorch tf32", { tf32: true }],
          ["PyTorch f16", { half: true }],
        ] as const)
      : []) {
      row(title, (await torch!.ask({ op: "gemm", n, device: "cuda", ...options }))["seconds"]!);
    }
    tf.dispose([a, b, y]);
  }
}

async function* oneBatch({ B, T, V }: Shape): AsyncGenerator<MicroBatch> {
  const ids = Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % V);
  yield { ids, targets: ids.map((id) => (id * 31 + 1) % V), sequences: B, length: T };
}

async function training(name: string, shape: Shape, torch: TorchPeer | null): Promise<void> {
  const config = configOf(shape);
  const weights = randomWeights(config);
  const tokens = shape.B * shape.T;
  const mine = await createWebgpuKernels();
  const ways: Kernels[] = [mine];
  if (device.features.has("shader-f16")) ways.push(await createWebgpuKernels({ f16: true }));
  if (matrices) ways.push(await createWebgpuKernels({ family: "matrices", f16: true }));
  if (asked["stock"] === "1") ways.push(stockKernels);
  const times = new Map<string, number[]>(ways.map((kernels) => [kernels.name, []]));
  let share: number | null = null;
  const trainers = new Map(ways.map((kernels) => [kernels, trainerOf({ kernels, config, weights })]));
  const step = async (kernels: Kernels, count = updatesARound): Promise<number> => {
    const { updates } = trainers.get(kernels)!;
    const start = performance.now();
    for (let update = 0; update < count; update++) {
      await updates.make(oneBatch(shape), { learningRate: 1e-4, clip: 1, step: 1 }, never);
      await updates.take(false);
    }
    await updates.take(true);
    await gpu.finished();
    return (performance.now() - start) / 1000 / count;
  };
  for (let round = 0; round <= rounds; round++) {
    for (const kernels of ways) {
      const seconds = await step(kernels);
      // The first round compiles.
      if (round > 0) times.get(kernels.name)!.push(seconds);
    }
  }
  if (clock) {
    clock.start();
    const seconds = await step(mine);
    const busy = await clock.stop();
    share = busy === null ? null : busy / seconds / updatesARound;
  }
  await faults.settle();
  console.log(`\nshape ${name}, ${shape.B} sequences of ${shape.T}: tokens/s, median of ${rounds} updates`);
  const best = median(times.get(mine.name)!);
  for (const [title, seconds] of times) {
    const ratio = best === median(seconds) ? "" : `   ours is ${(median(seconds) / best).toFixed(1)} times as fast`;
    console.log(`  ${title.padEnd(24)} ${(tokens / median(seconds)).toFixed(1).padStart(10)}${ratio}`);
  }
  for (const compiled of torch?.cuda ? [false, true] : []) {
    const seconds = [];
    for (let round = 0; round <= rounds + 1; round++) {
      seconds.push((await torch!.ask({ op: "train", shape, device: "cuda", compiled }))["seconds"]!);
    }
    const rate = tokens / median(seconds.slice(2));
    console.log(`  ${`PyTorch f32 ${compiled ? "compiled" : "eager"}`.padEnd(24)} ${rate.toFixed(1).padStart(10)}`);
  }
  console.log(`  share of wall time in which the device computes: ${share === null ? "not known" : share.toFixed(3)}`);
  for (const kernels of ways.filter((kernels) => kernels !== stockKernels)) {
    await soak(Number(asked["soak"]), kernels.name, (count) => step(kernels, count));
  }
  for (const { updates, dispose } of trainers.values()) {
    await updates.close();
    dispose();
  }
  tf.dispose([...weights.values()]);
}

/** What makes updates as a training does. */
function trainerOf(model: Model & { weights: Map<string, tf.Variable> }): { updates: Updates; dispose(): void } {
  const optimizer = new AdamW(model.kernels, adamwSettings, model.weights, null);
  const { deferred } = model.kernels;
  if (!deferred) {
    const updates = immediateUpdates({ ...model, optimizer }, localGradients(model));
    return { updates, dispose: () => optimizer.dispose() };
  }
  const lossScale = new LossScale(deferred.scalesLoss, null);
  const updates = deferredUpdates({ ...model, optimizer, lossScale }, deferred, () => performance.now());
  return { updates, dispose: () => [optimizer, lossScale].forEach((one) => one.dispose()) };
}

/** Updates upon updates: what the device holds must not grow. */
async function soak(updates: number, name: string, step: (count: number) => Promise<number>): Promise<void> {
  if (updates === 0) return;
  console.log(`  ${name}`);
  const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const held = (): string => {
    const device = `${tf.memory().numTensors} tensors, ${buffers.numBytesAllocated} bytes of the device`;
    return `${device}; ${mib(process.memoryUsage().rss)} resident`;
  };
  for (let part = 0; part <= soakParts; part++) {
    console.log(`    after ${Math.round((part * updates) / soakParts)} updates ${held()}`);
    if (part < soakParts) await step(Math.ceil(updates / soakParts));
  }
}
