/**
 * The whole of an evaluation, file to metrics, on a real trained model: what lm_eval 0.4.13 measured on the same
 * docs. Few docs, for the model runs on one core; the log-likelihoods of all docs are compared in parts elsewhere.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { EvaluateResult } from "../../../src/engine/backends/work.ts";
import type { BosProfile } from "../../../src/engine/eval/encodePair.ts";
import { aggregate, evaluate } from "../../../src/engine/eval/evaluate.ts";
import { tasks } from "../../../src/engine/eval/index.ts";
import { parseDocs } from "../../../src/engine/eval/readDocs.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import type { ServedModel } from "../../../src/engine/infer/servedModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { benchmarkFiles, benchmarks, harnessRuns, readBenchmark, readHarnessRun } from "./goldenTasks.ts";

const stories = sharedData("checkpoints", "stories260K");
const limits: Readonly<Record<string, number>> = { wikitext: 1 };
const docsOfOthers = 12;

/** The harness was told max_length 2048, wikitext 512; the model itself says 512. */
function withLength(checkpoint: ResolvedCheckpoint, maxPositionEmbeddings: number): ResolvedCheckpoint {
  const { manifest } = checkpoint;
  return { ...checkpoint, manifest: { ...manifest, config: { ...manifest.config, maxPositionEmbeddings } } };
}

async function measure(model: ServedModel, checkpoint: ResolvedCheckpoint, bos: BosProfile): Promise<EvaluateResult["results"]> {
  const tokenizer = loadTokenizer({
    tokenizerJson: readFileSync(join(stories ?? "", "tokenizer.json")),
    tokenizerConfigJson: readFileSync(join(stories ?? "", "tokenizer_config.json")),
  });
  const results: EvaluateResult["results"][number][] = [];
  for (const { name } of tasks) {
    const work = {
      checkpoint,
      tasks: [{ task: name, path: join(benchmarks ?? "", benchmarkFiles[name] ?? "") }],
      limit: limits[name] ?? docsOfOthers,
      bos,
      maxLength: name === "wikitext" ? 512 : 2048,
      bootstrapIterations: 0,
    };
    for await (const event of evaluate(work, model, tokenizer, new AbortController().signal)) {
      if (event.type === "result") results.push(...(event.result as EvaluateResult).results);
    }
  }
  return results;
}

/** The harness's metrics on the first docs: its own log-likelihoods of them, aggregated. */
function expectedMetrics(name: string, run: "bos" | "nobos"): Record<string, number | string> {
  const task = tasks.find((one) => one.name === name);
  assert.ok(task);
  const limit = limits[name] ?? docsOfOthers;
  const { docs } = parseDocs(task, readBenchmark(benchmarkFiles[name] ?? ""), limit);
  const answers = readHarnessRun(run, name).samples.slice(0, limit).map(({ resps }) =>
    resps.map((resp) => {
      const [logLikelihood, greedy] = typeof resp === "number" ? [resp, 0] : resp;
      return { logLikelihood, isGreedy: greedy === 1 };
    }),
  );
  const steps = aggregate(task, docs, answers, 0);
  let step = steps.next();
  while (!step.done) step = steps.next();
  return step.value;
}

test("stories260K measures as in lm_eval, on every task and in both profiles", needsShared(stories, benchmarks, harnessRuns), async () => {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm");
  const checkpoint = withLength(resolveFolder(stories ?? ""), 2048);
  const model = await loadServedModel(checkpoint, kernels);
  try {
    for (const [bos, run] of [["none", "nobos"], ["tokenizer", "bos"]] as const) {
      const results = await measure(model, checkpoint, bos);
      assert.equal(results.length, tasks.length);
      for (const { task, metrics } of results) {
        const expected = expectedMetrics(task, run);
        for (const [key, value] of Object.entries(metrics)) {
          const wanted = expected[key];
          const isClose = typeof wanted === "number" && Math.abs(Number(value) / wanted - 1) < 1e-4;
          assert.ok(value === wanted || isClose, `${task} ${key} (${bos}): ${value}, ${wanted} is wanted`);
        }
      }
    }
  } finally {
    model.close();
  }
});
