/**
 * Training speed: `node bench/train.ts --shapes s,m --rounds 5 --threads 1,2 --stock 1 --python python3`. Tokens a
 * second of one whole update (forward, backward, clipping, AdamW) by plain tfjs (as its users write it, and as ops
 * arranged to avoid its slow products), each build of the wasm kernels, the native backend in both precisions, and
 * PyTorch where that python has it: all rows in one run, interleaved, medians. Then the product rates of each, and a
 * profile of one step. `--kernels a,b` measures those alone. Plain tfjs takes one sequence instead of a batch; it is that slow.
 */
import * as tf from "@tensorflow/tfjs";
import { startGradientThreads } from "../src/engine/backends/gradientThreads.ts";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../src/engine/kernels/index.ts";
import type { KernelChoice } from "../src/engine/kernels/index.ts";
import type { Kernels } from "../src/engine/kernels/kernels.ts";
import { openBlas } from "../src/engine/kernels/native/blas.ts";
import { openNativeKernels, withBf16, withBlas } from "../src/engine/kernels/native/createNativeKernels.ts";
import { openOneDnn } from "../src/engine/kernels/native/oneDnn.ts";
import { kernelsOn, openWasmKernels } from "../src/engine/kernels/wasm/createWasmKernels.ts";
import type { KernelVariant } from "../src/engine/kernels/wasm/variants.ts";
import { AdamW } from "../src/engine/train/adamw.ts";
import { localGradients } from "../src/engine/train/gradients.ts";
import type { GradientSource } from "../src/engine/train/gradients.ts";
import type { MicroBatch } from "../src/engine/train/loss.ts";
import { trainStep } from "../src/engine/train/step.ts";
import type { LlamaConfig } from "../src/ops/architectures/llamaConfig.ts";
import type { Shape } from "./lib/model.ts";
import { adamwSettings, benchedKernels, configOf, median, optionsOf, randomWeights, shapes } from "./lib/model.ts";
import { naiveStep } from "./lib/naive.ts";
import { Profile } from "./lib/profile.ts";
import type { TorchPeer } from "./lib/torchPeer.ts";
import { openTorchPeer } from "./lib/torchPeer.ts";

interface Row {
  readonly title: string;
  readonly tokens: number;
  /** One update. @returns seconds */
  run(): Promise<number>;
  close(): Promise<void>;
}

interface Engine {
  readonly title: string;
  readonly choice: KernelChoice;
  readonly variant: KernelVariant | null;
  readonly kernels: Kernels;
}

/** As the native rows, without the build for AVX-512. */
const plainNative: typeof benchedKernels = [
  ["native on wasm", "native", "relaxed256"],
  ["native bf16 on wasm", "native-bf16", "relaxed256"],
];
const options = optionsOf({ shapes: "s,m", rounds: "5", threads: "1,2", stock: "1", python: "python3", kernels: "" });
const threadCounts = options["threads"]!.split(",").map(Number);
const never = new AbortController().signal;

await activateTfjs("wasm");
const peer = await openTorchPeer(options["python"]!);
const engines = await availableEngines();
console.log(`peer: ${peer?.name ?? `${options["python"]} has no torch`}`);
await printProducts(engines, peer);
for (const name of options["shapes"]!.split(",")) await measure(name, shapes[name]!);
peer?.close();

async function availableEngines(): Promise<Engine[]> {
  const engines: Engine[] = [];
  const wanted = options["kernels"] === "" ? null : options["kernels"]!.split(",");
  for (const [title, choice, variant = null] of [...benchedKernels.slice(1), ...plainNative]) {
    if (wanted && !wanted.includes(title)) continue;
    try {
      engines.push({ title, choice, variant, kernels: (await kernelsFor("wasm", choice, variant)).kernels });
    } catch (error) {
      console.log(`${title}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return engines;
}

/** The batch in as many micro-batches as there are threads. */
async function* microBatches({ B, T, V }: Shape, parts: number): AsyncGenerator<MicroBatch> {
  for (let part = 0; part < parts; part++) {
    const ids = Int32Array.from({ length: (B / parts) * T }, (_, i) => (i * 7919 + part * 13) % V);
    yield { ids, targets: ids.map((id) => (id * 31 + 1) % V), sequences: B / parts, length: T };
  }
}

async function measure(name: string, shape: Shape): Promise<void> {
  const config = configOf(shape);
  const weights = randomWeights(config);
  const rows: Row[] = [];
  // The moments are shared too: only their place matters to the time, and 4 GiB hold no more.
  const first = (await kernelsFor("wasm", "auto")).kernels;
  const active = { kernels: first };
  const switched = new Proxy(first, { get: (_, key) => active.kernels[key as keyof Kernels] });
  const optimizer = new AdamW(switched, adamwSettings, weights, null);
  const add = (title: string, kernels: Kernels, size: Shape, parts: number, source: GradientSource): void => {
    const model = { kernels, config, weights };
    rows.push({
      title,
      tokens: size.B * size.T,
      close: () => source.close(),
      async run() {
        active.kernels = kernels;
        const start = performance.now();
        const settings = { learningRate: 1e-4, clip: 1, step: 1 };
        await trainStep(model, optimizer, microBatches(size, parts), settings, never, source);
        return (performance.now() - start) / 1000;
      },
    });
  };
  for (const threads of threadCounts) {
    for (const { title, choice, variant, kernels } of engines) {
      const model = { kernels, config, weights };
      const source =
        threads === 1
          ? localGradients(model)
          : await startGradientThreads(model, threads, { tfjs: "wasm", kernels: choice, variant });
      add(`${title}, ${threads} threads`, kernels, shape, threads, source);
    }
    if (peer) rows.push(peerRow(peer, shape, threads));
  }
  if (options["stock"] === "1") {
    const { kernels } = await kernelsFor("wasm", "reference");
    add(
      "tfjs ops, 1 thread, one sequence",
      kernels,
      { ...shape, B: 1 },
      1,
      localGradients({ kernels, config, weights }),
    );
    rows.push(naiveRow(config, weights, { ...shape, B: 1 }));
  }
  await report(name, rows);
  for (const row of rows) await row.close();
  for (const engine of engines.filter(({ choice }) => choice.startsWith("native"))) {
    await profileStep(name, shape, engine, weights, optimizer, active);
  }
  optimizer.dispose();
  tf.dispose([...weights.values()]);
}

/** tfjs as its users write it, with its own Adam; it is so slow that one sequence of one update has to do. */
function naiveRow(config: LlamaConfig, weights: ReadonlyMap<string, tf.Variable>, size: Shape): Row {
  const optimizer = tf.train.adam(1e-4);
  return {
    title: "tfjs as users write it, one sequence",
    tokens: size.B * size.T,
    async run() {
      const start = performance.now();
      for await (const batch of microBatches(size, 1)) await naiveStep(config, weights, optimizer, batch);
      return (performance.now() - start) / 1000;
    },
    close: () => Promise.resolve(optimizer.dispose()),
  };
}

function peerRow(torch: TorchPeer, shape: Shape, threads: number): Row {
  return {
    title: `PyTorch, ${threads} threads`,
    tokens: shape.B * shape.T,
    run: async () => (await torch.ask({ op: "train", shape, threads }))["seconds"]!,
    close: () => Promise.resolve(),
  };
}

async function report(name: string, rows: readonly Row[]): Promise<void> {
  const times = rows.map((): number[] => []);
  const rounds = Number(options["rounds"]);
  for (let round = -1; round < rounds; round++) {
    for (const [i, row] of rows.entries()) {
      if (row.title.startsWith("tfjs") && round > 0) continue;
      const seconds = await row.run();
      if (round >= 0) times[i]!.push(seconds);
    }
  }
  const rates = rows.map((row, i) => row.tokens / median(times[i]!));
  console.log(`\nshape ${name}: tokens/s, median of ${rounds} updates, and as a share of PyTorch with as many threads`);
  rows.forEach((row, i) => {
    const same = rows.findIndex(
      ({ title }) => title.startsWith("PyTorch") && title.endsWith(row.title.split(", ")[1]!),
    );
    const share = same < 0 ? "" : (rates[i]! / rates[same]!).toFixed(2);
    console.log(`  ${row.title.padEnd(36)}${rates[i]!.toFixed(0).padStart(8)}${share.padStart(8)}`);
  });
}

/** GFLOP/s of a square product by each engine and by PyTorch on one thread, medians of interleaved repetitions. */
async function printProducts(list: readonly Engine[], torch: TorchPeer | null): Promise<void> {
  const n = 1024;
  const [x, w] = [0, 1].map((seed) => tf.randomNormal([n, n], 0, 1, "float32", seed) as tf.Tensor2D) as [
    tf.Tensor2D,
    tf.Tensor2D,
  ];
  const runs: { title: string; run: () => Promise<number> }[] = list.map(({ title, kernels }) => ({
    title,
    run: () => Promise.resolve(secondsOf(() => kernels.linear(x, w).dispose())),
  }));
  for (const threads of torch ? threadCounts : []) {
    const run = async (): Promise<number> => (await torch!.ask({ op: "gemm", n, threads }))["seconds"]!;
    runs.push({ title: `PyTorch, ${threads} threads`, run });
  }
  const times = runs.map((): number[] => []);
  for (let round = -1; round < 9; round++) {
    for (const [i, { run }] of runs.entries()) {
      const seconds = await run();
      if (round >= 0) times[i]!.push(seconds);
    }
  }
  console.log(`\nsgemm ${n}x${n}x${n}, GFLOP/s, one thread where nothing else is said`);
  runs.forEach(({ title }, i) =>
    console.log(`  ${title.padEnd(36)}${((2 * n ** 3) / median(times[i]!) / 1e9).toFixed(1).padStart(8)}`),
  );
  tf.dispose([x, w]);
}

function secondsOf(run: () => void): number {
  const start = performance.now();
  run();
  return (performance.now() - start) / 1000;
}

/** One step on one thread with every kernel timed, against the best this engine does at a large product and a sum. */
async function profileStep(
  name: string,
  shape: Shape,
  { title, choice, variant }: Engine,
  weights: Map<string, tf.Variable>,
  optimizer: AdamW,
  active: { kernels: Kernels },
): Promise<void> {
  const wasm = await (choice.startsWith("native") ? openNativeKernels : openWasmKernels)(variant ? { variant } : {});
  const products = {
    native: openBlas,
    "native-bf16": openOneDnn,
  }[choice as string];
  const blas = products ? await products(wasm.heap.memory) : null;
  const made = (profile: Profile | null): Kernels => {
    const functions = profile ? profile.functions(wasm.functions) : wasm.functions;
    const parts = { ...wasm, functions, kernels: kernelsOn(wasm.heap, functions, "profiled") };
    if (!blas) return parts.kernels;
    return (choice === "native" ? withBlas : withBf16)(parts, profile ? profile.blas(blas) : blas);
  };
  const plain = made(null);
  const x = tf.randomNormal([1024, 1024], 0, 1, "float32", 1) as tf.Tensor2D;
  const bulk = tf.zeros([2 ** 26]);
  const peak = Math.min(...Array.from({ length: 9 }, () => secondsOf(() => plain.linear(x, x).dispose())));
  const sums = Array.from({ length: 5 }, () => secondsOf(() => void plain.sumOfSquares([bulk])));
  tf.dispose([x, bulk]);
  const profile = new Profile();
  const kernels = made(profile);
  active.kernels = kernels;
  const model = { kernels, config: configOf(shape), weights };
  const step = () =>
    trainStep(model, optimizer, microBatches(shape, 1), { learningRate: 1e-4, clip: 1, step: 1 }, never);
  await step();
  profile.shares.clear();
  const start = performance.now();
  await step();
  const seconds = (performance.now() - start) / 1000;
  profile.print(
    `profile of one step of ${name}, ${title}, ${blas?.name ?? choice}`,
    seconds,
    (2 * 1024 ** 3) / peak / 1e9,
    (4 * 2 ** 26) / Math.min(...sums) / 1e9,
  );
}
