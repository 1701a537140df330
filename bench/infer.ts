/**
 * Inference speed: `node bench/infer.ts --shapes s,m --rounds 5 --tokens 16 --batches 1,8 --context 128 --threads 1,2
 * --python python3`. Prefill and decode with a key/value cache, as served models do it (`infer/teamModel.ts`), with
 * weights and caches in 32 bits and in 16 ("16/32 bits": weights/cache), and by PyTorch in both precisions (eager,
 * cache by concatenation, as Hugging Face models do): all rows in one run, in another order each round, medians.
 * Decoding reads every weight once for each step, so beside it stands the rate that a plain sum of the float32 bytes on
 * one thread would allow, measured in the same run.
 */
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import type { BatchDecoder } from "../src/engine/infer/decoder.ts";
import { llamaDecoder } from "../src/engine/infer/loadServedModel.ts";
import { openTeamModel } from "../src/engine/infer/teamModel.ts";
import { kernelsFor } from "../src/engine/kernels/index.ts";
import type { LlamaConfig } from "../src/ops/architectures/llamaConfig.ts";
import { seededStream } from "../src/ops/rng.ts";
import { benchedKernels, configOf, median, optionsOf, randomWeights, shapes, weightSource } from "./lib/model.ts";
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
  shapes: "s,m",
  rounds: "5",
  tokens: "16",
  batches: "1,8",
  context: "128",
  threads: "1,2",
  kernels: "wasm-relaxed256,native",
  python: "python3",
});
const [rounds, tokens, context] = [options["rounds"], options["tokens"], options["context"]].map(Number) as [
  number,
  number,
  number,
];
/** Bits of a weight, and what keys and values are kept as. */
const widths = [
  [32, "F32"],
  [32, "BF16"],
  [16, "F32"],
  [16, "BF16"],
] as const;
const listOf = (name: string): number[] => options[name]!.split(",").map(Number);

await activateTfjs("wasm");
const peer = await openTorchPeer(options["python"]!);
console.log(`peer: ${peer?.name ?? `${options["python"]} has no torch`}`);
for (const name of options["shapes"]!.split(",")) await measure(name);
peer?.close();

async function measure(name: string): Promise<void> {
  const shape = shapes[name]!;
  const config = configOf(shape);
  const weights = randomWeights(config);
  const closers: (() => void)[] = [];
  const rows: Row[] = [];
  const addRows = (title: string, run: (batch: number) => Promise<Timing>): void => {
    for (const batch of listOf("batches")) rows.push({ title, batch, run: () => run(batch) });
  };
  for (const [title, choice, variant] of benchedKernels) {
    if (!options["kernels"]!.split(",").includes(title)) continue;
    const loaded = await kernelsFor("wasm", choice, variant).catch((error: Error) => {
      console.log(`${title}: ${error.message}`);
    });
    const inference = loaded?.kernels.inference;
    if (loaded && !inference) {
      addRows(title, (batch) => decodeRun(llamaDecoder(config, weights, loaded.kernels), batch));
    }
    for (const threads of inference ? listOf("threads") : []) {
      for (const [bits, cacheDtype] of widths) {
        const source = weightSource(weights, bits === 16);
        const team = await openTeamModel(config, source, inference!, threads, { cacheDtype });
        closers.push(team.close);
        const both = `${bits}/${cacheDtype === "F32" ? 32 : 16} bits`;
        addRows(`${title}, ${both}, ${threads} thr.`, (batch) => decodeRun(team.decoder, batch));
      }
    }
  }
  for (const threads of peer ? listOf("threads") : []) {
    for (const bits of [32, 16]) {
      addRows(`PyTorch, ${bits} bits, ${threads} thr.`, async (batch) => {
        const asked = { op: "decode", shape, batch, context, tokens, threads, bf16: bits === 16 };
        const { seconds, prefill } = await peer!.ask(asked);
        return { decodeSeconds: seconds!, prefillSeconds: prefill! };
      });
    }
  }
  await report(name, config, weights, rows);
  for (const close of closers) close();
  tf.dispose([...weights.values()]);
}

async function report(
  name: string,
  config: LlamaConfig,
  weights: ReadonlyMap<string, tf.Tensor>,
  rows: readonly Row[],
): Promise<void> {
  const { kernels } = await kernelsFor("wasm", "auto");
  // The embedding gives one row a token; the head is read in whole.
  const read = [...weights].filter(([key]) => key !== "model.embed_tokens.weight").map(([, weight]) => weight);
  const bytes = read.reduce((sum, { size }) => sum + 4 * size, 0);
  const timings = rows.map((): Timing[] => []);
  const sums: number[] = [];
  const sumRow = rows.length;
  for (let round = -1; round < rounds; round++) {
    for (const i of shuffled(rows.length + 1, round)) {
      if (i === sumRow) {
        const start = performance.now();
        await kernels.sumOfSquares(read);
        if (round >= 0) sums.push((performance.now() - start) / 1000);
        continue;
      }
      if (rows[i]!.title === "tfjs ops" && round > 0) continue;
      const timing = await rows[i]!.run();
      if (round >= 0) timings[i]!.push(timing);
    }
  }
  const readSeconds = median(sums);
  const [megabytes, ms, rate] = [bytes / 2 ** 20, readSeconds * 1e3, bytes / readSeconds / 1e9];
  console.log(
    `\nshape ${name}, ${config.numHiddenLayers} layers: ${megabytes.toFixed(0)} MiB of float32 weights are read in ` +
      `${ms.toFixed(2)} ms by a plain sum: ${(1 / readSeconds).toFixed(0)} steps/s, ${rate.toFixed(1)} GB/s`,
  );
  console.log(`  ${"".padEnd(34)}batch  decode tokens/s  of the sum's rate  prefill tokens/s (context ${context})`);
  rows.forEach(({ title, batch }, i) => {
    const step = median(timings[i]!.map(({ decodeSeconds }) => decodeSeconds));
    const prefill = median(timings[i]!.map(({ prefillSeconds }) => prefillSeconds));
    const cells = [batch.toFixed(0).padStart(5), (batch / step).toFixed(1).padStart(17)];
    const shares = [
      (readSeconds / step).toFixed(2).padStart(19),
      ((batch * context) / prefill).toFixed(0).padStart(18),
    ];
    console.log(`  ${title.padEnd(34)}${[...cells, ...shares].join("")}`);
  });
}

/**
 * An order of its own for each round: a row runs slower behind one that left the processor to others for long, and none
 * shall always be the one.
 */
function shuffled(count: number, round: number): number[] {
  const stream = seededStream(round + 1, "order of rows");
  return Array.from({ length: count }, (_, i) => [stream.uniform(), i] as const)
    .sort(([a], [b]) => a - b)
    .map(([, i]) => i);
}

/** Prefill of each sequence, then `tokens` greedy steps of all of them together. */
async function decodeRun(decoder: BatchDecoder, batch: number): Promise<Timing> {
  const { vocabSize } = decoder;
  const contexts = Array.from({ length: batch }, () => decoder.start(context + tokens));
  const prompt = Array.from({ length: context }, (_, i) => (i * 7919) % vocabSize);
  const start = performance.now();
  for (const one of contexts) await decoder.step([{ context: one, ids: prompt, rows: 0 }]);
  const middle = performance.now();
  let ids = contexts.map(() => 0);
  for (let step = 0; step < tokens; step++) {
    const made = await decoder.step(contexts.map((one, i) => ({ context: one, ids: [ids[i]!], rows: 1 })));
    ids = made.map(({ logits }) => argmax(logits));
  }
  const end = performance.now();
  for (const one of contexts) one.close();
  return { decodeSeconds: (end - middle) / 1000 / tokens, prefillSeconds: (middle - start) / 1000 };
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
