/**
 * Evaluation speed: `node bench/eval.ts --shapes s --backends wasm --docs 48 --rounds 3 --threads 1,2
 * --python python3 --benchmarks DIR --tokenizer DIR`. The requests of real docs (the first of each task) are scored by
 *
 * - this service's way: `score` on the model that its threads share, as an evaluation does it;
 * - the straightforward way on the same backend: one forward pass for each choice, batch 1, a row of logits for every
 *   position, one thread. Its results must have the same bits;
 * - PyTorch doing what lm-evaluation-harness's Hugging Face backend does (sorted by length, right-padded batches, logits
 *   of every position, float32 log-softmax). A stand-in for it: the harness itself is not run, and the model is the
 *   eager one of bench/peer. Results are compared within a tolerance.
 *
 * All rows in one run, interleaved, medians. Weights are random: speed does not depend on them.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import { findTask } from "../src/engine/eval/index.ts";
import { planDoc } from "../src/engine/eval/plan.ts";
import { parseDocs } from "../src/engine/eval/readDocs.ts";
import { LogitRow } from "../src/engine/infer/logitRow.ts";
import { logprobOf, rowStats } from "../src/engine/infer/logprobs.ts";
import { score } from "../src/engine/infer/score.ts";
import type { ScoreRequest, ScoreResult } from "../src/engine/infer/servedModel.ts";
import { openTeamModel } from "../src/engine/infer/teamModel.ts";
import { kernelsFor, type KernelChoice } from "../src/engine/kernels/index.ts";
import type { Kernels } from "../src/engine/kernels/kernels.ts";
import { hiddenStates, logits } from "../src/engine/model/llama.ts";
import { loadTokenizer } from "../src/engine/tokenizer/loadTokenizer.ts";
import { expectedTensors } from "../src/ops/architectures/llama.ts";
import type { LlamaConfig } from "../src/ops/architectures/llamaConfig.ts";
import { configOf, median, optionsOf, randomWeights, shapes, weightSource } from "./lib/model.ts";
import { openTorchPeer } from "./lib/torchPeer.ts";

const files: Readonly<Record<string, string>> = {
  ...{ arc_easy: "arc_easy/test.jsonl", piqa: "piqa/validation.jsonl", sciq: "sciq/test.jsonl" },
  ...{ lambada_openai: "lambada_openai/lambada_test.jsonl", winogrande: "winogrande/validation.jsonl" },
  ...{ arc_challenge: "arc_challenge/test.jsonl", logiqa: "logiqa/test.jsonl" },
};
const choices: Readonly<Record<string, KernelChoice>> = { wasm: "wasm-simd", native: "native" };

const options = optionsOf({
  ...{ shapes: "s", backends: "wasm,native", docs: "24", rounds: "3", threads: "1,2", batches: "1,16" },
  ...{ tasks: Object.keys(files).join(","), benchmarks: "../shared/data/benchmarks" },
  ...{ tokenizer: "../shared/data/tokenizers/llama2-32k", python: "python3" },
});
const numDocs = Number(options["docs"]);
const signal = new AbortController().signal;

interface Row {
  readonly title: string;
  run(): Promise<{ seconds: number; likelihoods: readonly number[] }>;
}

await activateTfjs("wasm");
const peer = await openTorchPeer(options["python"]!);
console.log(
  `peer: ${peer?.name ?? `${options["python"]} has no torch`}, a stand-in for lm-eval's Hugging Face backend`,
);
const folder = mkdtempSync(join(tmpdir(), "cambium-bench-"));
try {
  for (const shape of options["shapes"]!.split(",")) await measure(shape);
} finally {
  peer?.close();
  rmSync(folder, { recursive: true, force: true });
}

/** The requests of the first docs of each task, as an evaluation plans them. */
function plannedRequests(config: LlamaConfig): { docs: number; requests: ScoreRequest[] } {
  const tokenizer = loadTokenizer({ tokenizerJson: readFileSync(join(options["tokenizer"]!, "tokenizer.json")) });
  const docs = options["tasks"]!.split(",").flatMap((name) => {
    const task = findTask(name);
    const text = readFileSync(join(options["benchmarks"]!, files[name]!), "utf8");
    return parseDocs(task!, text, numDocs).docs.map((doc, i) => ({ name, doc, i }));
  });
  const planOptions = { tokenizer, bos: "none", maxLength: config.maxPositionEmbeddings } as const;
  const plans = docs.map(({ name, doc, i }) => planDoc(name, doc, i, planOptions).map(({ score: asked }) => asked));
  const longest = (plan: readonly ScoreRequest[]): number => Math.max(...plan.map(({ ids }) => ids.length));
  plans.sort((a, b) => longest(b) - longest(a));
  return { docs: docs.length, requests: plans.flat() };
}

async function measure(name: string): Promise<void> {
  const shape = { ...shapes[name]!, V: 32000 };
  const config = configOf(shape);
  const weights = randomWeights(config);
  const { docs, requests } = plannedRequests(config);
  const tokens = requests.reduce((sum, { ids }) => sum + ids.length, 0);
  console.log(`\n${name}: ${JSON.stringify(shape)}; ${docs} docs, ${requests.length} requests, ${tokens} tokens`);
  const rows: Row[] = [];
  const closers: (() => void)[] = [];
  for (const backend of options["backends"]!.split(",")) {
    const { kernels } = await kernelsFor("wasm", choices[backend]!);
    for (const threads of options["threads"]!.split(",")) {
      const model = await openTeamModel(config, weightSource(weights, false), kernels.inference!, Number(threads));
      closers.push(model.close);
      const run = () => timed(() => score(model.decoder, requests, signal));
      rows.push({ title: `${backend}, this service, ${threads} threads`, run });
    }
    rows.push({
      title: `${backend}, one by one, 1 thread`,
      run: () => timed(() => oneByOne(kernels, config, weights, requests)),
    });
  }
  if (peer) rows.push(...torchRows(shape, weights, config, requests));
  const timings = new Map<Row, number[]>(rows.map((row) => [row, []]));
  const likelihoods = new Map<Row, readonly number[]>();
  for (let round = 0; round < Number(options["rounds"]); round++) {
    for (const row of rows) {
      const made = await row.run();
      timings.get(row)!.push(made.seconds);
      likelihoods.set(row, made.likelihoods);
    }
  }
  report(rows, docs, timings, likelihoods);
  for (const close of closers) close();
  for (const weight of weights.values()) weight.dispose();
}

function report(
  rows: readonly Row[],
  docs: number,
  timings: ReadonlyMap<Row, number[]>,
  likelihoods: ReadonlyMap<Row, readonly number[]>,
): void {
  const [first] = rows;
  for (const row of rows) {
    const seconds = median(timings.get(row)!);
    const own = likelihoods.get(row)!;
    const reference = likelihoods.get(first!)!;
    const off = own.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i]!)), 0);
    const ratio = seconds / median(timings.get(first!)!);
    const rate = (docs / seconds).toFixed(2).padStart(9);
    const beside = `${ratio.toFixed(2)}x the time of the first row, log-likelihoods off by at most ${off.toExponential(1)}`;
    console.log(`  ${row.title.padEnd(32)} ${rate} docs/s  ${beside}`);
  }
}

async function timed(work: () => Promise<readonly ScoreResult[]>) {
  const startMs = performance.now();
  const results = await work();
  return {
    seconds: (performance.now() - startMs) / 1000,
    likelihoods: results.map(({ logLikelihood }) => logLikelihood),
  };
}

/** One forward pass a request, logits of every position. */
async function oneByOne(
  kernels: Kernels,
  config: LlamaConfig,
  weights: ReadonlyMap<string, tf.Tensor>,
  asked: readonly ScoreRequest[],
): Promise<ScoreResult[]> {
  const results: ScoreResult[] = [];
  for (const { ids, start } of asked) {
    const inputs = Int32Array.from(ids.slice(0, -1));
    const made = tf.tidy(() =>
      logits(kernels, config, weights, hiddenStates(kernels, config, weights, inputs, 1, inputs.length)),
    );
    const values = (await made.data()) as Float32Array;
    made.dispose();
    let logLikelihood = 0;
    let isGreedy = true;
    for (let at = start; at < ids.length; at++) {
      const row = new LogitRow(values.subarray((at - 1) * config.vocabSize, at * config.vocabSize));
      const stats = rowStats(row);
      logLikelihood += logprobOf(row, stats, ids[at]!);
      isGreedy &&= stats.argmax === ids[at];
    }
    results.push({ logLikelihood, isGreedy });
  }
  return results;
}

/** The same weights and requests for PyTorch, through files. */
function torchRows(
  shape: object,
  weights: ReadonlyMap<string, tf.Tensor>,
  config: LlamaConfig,
  asked: readonly ScoreRequest[],
): Row[] {
  const paths = { weights: join(folder, "weights.f32"), requests: join(folder, "requests.json") };
  const values = expectedTensors(config).map(({ name }) => Buffer.from(weights.get(name)!.dataSync().slice().buffer));
  writeFileSync(paths.weights, Buffer.concat(values));
  writeFileSync(paths.requests, JSON.stringify(asked));
  const names = expectedTensors(config).map(({ name }) => name);
  return options["threads"]!.split(",").flatMap((threads) =>
    options["batches"]!.split(",").map((batch) => ({
      title: `PyTorch, batch ${batch}, ${threads} threads`,
      async run() {
        const request = { op: "score", shape, names, ...paths, batch: Number(batch), threads: Number(threads) };
        const answer = (await peer!.ask(request)) as unknown as { seconds: number; likelihoods: number[] };
        return answer;
      },
    })),
  );
}
