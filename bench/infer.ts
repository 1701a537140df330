/**
 * Inference speed: `node bench/infer.ts --shapes m --rounds 5 --tokens 16 --batches 1,8 --context 128 --python
 * python3`. Prefill and decode with a key/value cache on one thread, by each engine and by PyTorch (eager, cache by
 * concatenation): all rows in one run, interleaved, medians. Decoding reads every weight once for each step, so beside
 * it stands the rate that a plain sum over the same bytes would allow, measured in the same run.
 */
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../src/engine/kernels/index.ts";
import type { Kernels } from "../src/engine/kernels/kernels.ts";
import { KvCache } from "../src/engine/model/kvCache.ts";
import { hiddenStates, logits } from "../src/engine/model/llama.ts";
import type { LlamaConfig } from "../src/ops/architectures/llamaConfig.ts";
import { benchedKernels, configOf, median, optionsOf, randomWeights, shapes } from "./lib/model.ts";
import { openTorchPeer } from "./lib/torchPeer.ts";

interface Timing {
  /** Of one step of all sequences. */
  readonly decodeSeconds: number;
  readonly prefillSeconds: number;
}

interface Row {
  readonly title: string;
  readonly batch: number;
  run(): Promise<Timing>;
}

const options = optionsOf({
  shapes: "m",
  rounds: "5",
  tokens: "16",
  batches: "1,8",
  context: "128",
  python: "python3",
});
const [rounds, tokens, context] = [options["rounds"], options["tokens"], options["context"]].map(Number) as [
  number,
  number,
  number,
];

await activateTfjs("wasm");
const peer = await openTorchPeer(options["python"]!);
console.log(`peer: ${peer?.name ?? `${options["python"]} has no torch`}`);
for (const name of options["shapes"]!.split(",")) await measure(name);
peer?.close();

async function measure(name: string): Promise<void> {
  const shape = shapes[name]!;
  const config = configOf(shape);
  const weights = randomWeights(config);
  const rows: Row[] = [];
  for (const batch of options["batches"]!.split(",").map(Number)) {
    // Precision bf16 is for training only.
    for (const [title, choice, variant] of benchedKernels.filter(([, choice]) => choice !== "native-bf16")) {
      const loaded = await kernelsFor("wasm", choice, variant).catch((error: Error) =>
        console.log(`${title}: ${error.message}`),
      );
      if (!loaded) continue;
      rows.push({
        title,
        batch,
        run: () => decodeRun(loaded.kernels, config, weights, batch),
      });
    }
    for (const threads of peer ? [1, 2] : []) {
      rows.push({
        title: `PyTorch, ${threads} threads`,
        batch,
        async run() {
          const { seconds, prefill } = await peer!.ask({ op: "decode", shape, batch, context, tokens, threads });
          return { decodeSeconds: seconds!, prefillSeconds: prefill! };
        },
      });
    }
  }
  const { kernels } = await kernelsFor("wasm", "auto");
  // The embedding gives one row a token; the head is read in whole.
  const read = [...weights].filter(([key]) => key !== "model.embed_tokens.weight").map(([, weight]) => weight);
  const bytes = read.reduce((sum, { size }) => sum + 4 * size, 0);
  const timings = rows.map((): Timing[] => []);
  const sums: number[] = [];
  for (let round = -1; round < rounds; round++) {
    const start = performance.now();
    await kernels.sumOfSquares(read);
    if (round >= 0) sums.push((performance.now() - start) / 1000);
    for (const [i, row] of rows.entries()) {
      if (row.title === "tfjs ops" && round > 0) continue;
      const timing = await row.run();
      if (round >= 0) timings[i]!.push(timing);
    }
  }
  const readSeconds = median(sums);
  console.log(
    `\nshape ${name}: ${(bytes / 2 ** 20).toFixed(0)} MiB of weights are read in ${(readSeconds * 1e3).toFixed(2)} ms by a plain sum: ${(1 / readSeconds).toFixed(0)} steps/s, ${(bytes / readSeconds / 1e9).toFixed(1)} GB/s`,
  );
  console.log(`  ${"".padEnd(24)}batch  decode tokens/s  of the sum's rate  prefill tokens/s (context ${context})`);
  rows.forEach(({ title, batch }, i) => {
    const step = median(timings[i]!.map(({ decodeSeconds }) => decodeSeconds));
    const prefill = median(timings[i]!.map(({ prefillSeconds }) => prefillSeconds));
    const cells = [batch.toFixed(0).padStart(5), (batch / step).toFixed(1).padStart(17)];
    console.log(
      `  ${title.padEnd(24)}${cells.join("")}${(readSeconds / step).toFixed(2).padStart(19)}${((batch * context) / prefill).toFixed(0).padStart(18)}`,
    );
  });
  tf.dispose([...weights.values()]);
}

/** Prefill of each sequence, then `tokens` greedy steps of all of them together. */
async function decodeRun(
  kernels: Kernels,
  config: LlamaConfig,
  weights: ReadonlyMap<string, tf.Tensor>,
  batch: number,
): Promise<Timing> {
  const caches = Array.from({ length: batch }, () => new KvCache(config.numHiddenLayers));
  const prompt = Int32Array.from({ length: context }, (_, i) => (i * 7919) % config.vocabSize);
  const start = performance.now();
  for (const cache of caches) hiddenStates(kernels, config, weights, prompt, 1, context, [cache]).dispose();
  const middle = performance.now();
  let ids = new Int32Array(batch);
  for (let step = 0; step < tokens; step++) {
    const next = tf.tidy(() =>
      logits(kernels, config, weights, hiddenStates(kernels, config, weights, ids, batch, 1, caches)),
    );
    const values = (await next.data()) as Float32Array;
    next.dispose();
    ids = Int32Array.from({ length: batch }, (_, b) =>
      argmax(values.subarray(b * config.vocabSize, (b + 1) * config.vocabSize)),
    );
  }
  const end = performance.now();
  for (const cache of caches) cache.dispose();
  return { decodeSeconds: (end - middle) / 1000 / tokens, prefillSeconds: (middle - start) / 1000 };
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
