/**
 * The served model against golden values: greedy tokens of transformers (hf/logits), the text that llama2.c
 * publishes, and log-likelihoods of lm-evaluation-harness. On the kernels that serve by default; the reference
 * has one model to itself.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import type { GenerateRequest, ServedModel, TokenLogprobs } from "../../../src/engine/infer/servedModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { Tokenizer } from "../../../src/engine/tokenizer/tokenizer.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { readGolden, resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const stories = sharedData("checkpoints", "stories260K");
const signal = new AbortController().signal;
/** Harness README: batch 1 against 16 inside the harness moves a log-likelihood by up to 1.2e-4. */
const scoreTolerance = 1e-3;

interface GoldenPrompt {
  name: string;
  input_ids: number[];
  next_token_logprobs_f64?: number[];
  greedy: number[];
  greedy_margin: number[];
}

function tokenizerOf(folder: string): Tokenizer {
  return loadTokenizer({
    tokenizerJson: readFileSync(`${folder}/tokenizer.json`),
    tokenizerConfigJson: readFileSync(`${folder}/tokenizer_config.json`),
  });
}

async function loaded(checkpoint: ResolvedCheckpoint, backend: "cpu" | "wasm"): Promise<ServedModel> {
  await activateTfjs(backend);
  const { kernels } = await kernelsFor(backend);
  return loadServedModel(checkpoint, kernels);
}

async function withModel(
  folder: string,
  use: (model: ServedModel) => Promise<void>,
  backend: "cpu" | "wasm" = "wasm",
): Promise<void> {
  await activateTfjs(backend);
  const numTensors = tf.memory().numTensors;
  const model = await loaded(resolveFolder(folder), backend);
  try {
    await use(model);
  } finally {
    model.close();
  }
  assert.equal(tf.memory().numTensors, numTensors, "no tensor is left behind");
}

async function run(
  model: ServedModel,
  change: Partial<GenerateRequest>,
): Promise<{ ids: number[]; prompt: (TokenLogprobs | null)[] }> {
  const request: GenerateRequest = {
    promptIds: [1],
    maxTokens: 16,
    temperature: 0,
    topP: 1,
    seed: 0,
    stopIds: [],
    logprobs: null,
    echo: false,
    ...change,
  };
  const ids: number[] = [];
  let prompt: (TokenLogprobs | null)[] = [];
  for await (const event of model.generate(request, signal)) {
    if (event.type === "token") ids.push(event.id);
    if (event.type === "prompt") prompt = [...event.logprobs];
  }
  return { ids, prompt };
}

for (const [name, backend] of [
  ["stories260K", "cpu"],
  ["stories260K", "wasm"],
  ["stories260K-bf16", "wasm"],
  ["babyllama-tok361", "wasm"],
] as const) {
  const folder = sharedData("checkpoints", name);
  const goldenPath = sharedData("golden", "hf", "logits", `${name}.json`);
  test(
    `${name} on ${backend}: greedy tokens and prompt log-probabilities are those of transformers`,
    needsShared(folder, goldenPath),
    async () => {
      const golden = JSON.parse(readFileSync(goldenPath!, "utf8")) as { prompts: GoldenPrompt[] };
      const logits = readGolden(goldenPath!.replace(/\.json$/, ".logits.safetensors"));
      await withModel(
        folder!,
        async (model) => {
          for (const { name: prompt, input_ids, greedy, greedy_margin } of golden.prompts.slice(0, 2)) {
            const tie = greedy_margin.findIndex((margin) => margin < 1e-3);
            const compared = tie < 0 ? greedy.length : tie;
            const made = await run(model, { promptIds: input_ids, maxTokens: compared, echo: true, logprobs: 3 });
            assert.deepEqual(made.ids, greedy.slice(0, compared), `greedy ids after ${prompt}`);
            const values = logits.get(prompt)!.values;
            for (let i = 1; i < input_ids.length; i++) {
              const row = values.subarray((i - 1) * model.vocabSize, i * model.vocabSize);
              let sum = 0;
              for (const x of row) sum += Math.exp(x);
              const expected = row[input_ids[i]!]! - Math.log(sum);
              assert.ok(Math.abs(made.prompt[i]!.logprob - expected) < 1e-3, `${prompt} position ${i}`);
            }
          }
        },
        backend,
      );
    },
  );
}

const text = sharedData("golden", "llama2c", "stories260K.expected.txt");
test("stories260K tells the story that llama2.c publishes", needsShared(stories, text), async () => {
  const tokenizer = tokenizerOf(stories!);
  await withModel(stories!, async (model) => {
    // 200 steps of llama2.c: BOS is the first input, and each step makes one token.
    const { ids } = await run(model, { promptIds: [1], maxTokens: 200 });
    assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }).trim(), readFileSync(text!, "utf8").trim());
  });
});

const lambada = sharedData("golden", "lm-eval", "stories260K-nobos", "lambada_openai.jsonl");
const docs = sharedData("benchmarks", "lambada_openai", "lambada_test.jsonl");
test("log-likelihoods are those of lm-evaluation-harness", needsShared(stories, lambada, docs), async () => {
  const tokenizer = tokenizerOf(stories!);
  const encode = (part: string): number[] => tokenizer.encode(part, { addSpecialTokens: false });
  const golden = readFileSync(lambada!, "utf8").split("\n").slice(0, 20);
  const lines = readFileSync(docs!, "utf8").split("\n");
  await withModel(stories!, async (model) => {
    const requests = golden.map((_, i) => {
      const words = (JSON.parse(lines[i]!) as { text: string }).text.split(" ");
      const context = words.slice(0, -1).join(" ");
      const whole = encode(`${context} ${words.at(-1)}`);
      return { ids: whole, start: encode(context).length };
    });
    const scores = await model.score(requests, signal);
    for (const [i, line] of golden.entries()) {
      const [[ll, greedy]] = (JSON.parse(line) as { resps: [[number, number]] }).resps;
      assert.ok(
        Math.abs(scores[i]!.logLikelihood - ll) < scoreTolerance,
        `doc ${i}: ${scores[i]!.logLikelihood}, ${ll} wanted`,
      );
      assert.equal(scores[i]!.isGreedy, greedy === 1, `doc ${i}`);
    }
    assert.deepEqual(await model.score([requests[5]!], signal), [scores[5]], "alone as in company");
  });
});

test("scoring a prompt by echo and by score gives the same numbers", needsShared(stories), async () => {
  await withModel(stories!, async (model) => {
    const ids = [1, 403, 407, 261, 378, 20, 31, 77];
    const { prompt } = await run(model, { promptIds: ids, maxTokens: 0, echo: true, logprobs: 1 });
    const [score] = await model.score([{ ids, start: 1 }], signal);
    const sum = prompt.reduce((total, entry) => total + (entry?.logprob ?? 0), 0);
    assert.equal(sum, score!.logLikelihood);
  });
});

test("generating together gives each request the text it gets alone", needsShared(stories), async () => {
  await withModel(stories!, async (model) => {
    const requests = [1, 2, 3, 4].map((seed) => ({
      promptIds: [1, 400 + seed],
      maxTokens: 24,
      temperature: 1,
      topP: 0.9,
      seed,
    }));
    const alone: number[][] = [];
    for (const request of requests) alone.push((await run(model, request)).ids);
    const together = await Promise.all(requests.map(async (request) => (await run(model, request)).ids));
    assert.deepEqual(together, alone);
    assert.ok(new Set(alone.map(String)).size > 1);
  });
});

test("tensors stay flat over generations, of which some are left early, and over scores", async () => {
  const tiny = tinyCheckpoint();
  const model = await loaded(tiny.checkpoint, "wasm");
  const numTensors = tf.memory().numTensors;
  for (let seed = 0; seed < 20; seed++) {
    const controller = new AbortController();
    const request = {
      promptIds: [256, 72],
      maxTokens: 6,
      temperature: 1,
      topP: 1,
      seed,
      stopIds: [],
      logprobs: 2,
      echo: true,
    };
    try {
      for await (const event of model.generate(request, controller.signal)) {
        if (event.type === "token" && seed % 4 === 1) break;
        if (event.type === "token" && seed % 4 === 2) controller.abort();
      }
    } catch {
      assert.equal(seed % 4, 2);
    }
    await model.score(
      [
        { ids: [256, 1, 2, seed], start: 2 },
        { ids: [256, 1, 2, 5], start: 2 },
      ],
      signal,
    );
    assert.equal(tf.memory().numTensors, numTensors, `after round ${seed}`);
  }
  model.close();
  model.close();
  tiny.remove();
});
