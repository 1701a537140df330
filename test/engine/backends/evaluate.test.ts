/**
 * Benchmarks from end to end, text file to metrics, on the trained stories260K: against what lm_eval itself
 * made of the same docs, one by one.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import type { EvaluateResult, TaskResult } from "../../../src/engine/backends/work.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import {
  benchmarkFiles,
  benchmarks,
  harnessRuns,
  harnessSamples,
  readHarnessRun,
  readWikitextGolden,
} from "../eval/goldenTasks.ts";
import { collect } from "../train/trainerFixture.ts";

const stories = sharedData("checkpoints", "stories260K");
const skip = needsShared(stories, benchmarks, harnessRuns, harnessSamples);
const never = new AbortController().signal;

/** stories260K with the context that lm_eval was run with, four times the one it was trained on. */
function longStories(): ResolvedCheckpoint {
  const checkpoint = resolveFolder(stories as string);
  const config = { ...checkpoint.manifest.config, maxPositionEmbeddings: 2048 };
  return { ...checkpoint, manifest: { ...checkpoint.manifest, config } };
}

async function evaluated(task: string, limit: number, maxLength: number, backend = "wasm"): Promise<TaskResult> {
  const events = await collect(
    getBackend(backend).evaluate(
      {
        checkpoint: longStories(),
        tasks: [{ task, path: join(benchmarks as string, benchmarkFiles[task] as string) }],
        limit,
        bos: "tokenizer",
        maxLength,
        bootstrapIterations: 0,
      },
      never,
    ),
  );
  const last = events.at(-1);
  assert.ok(last?.type === "result");
  return (last.result as EvaluateResult).results[0] as TaskResult;
}

const onGpu = { skip: skip.skip || ((await missingGpu()) ?? false) };
for (const [task, limit, backend] of [
  ...["arc_easy", "arc_challenge", "lambada_openai", "piqa", "sciq", "winogrande"].map(
    (task) => [task, 24, "wasm"] as const,
  ),
  ["logiqa", 4, "wasm"],
  ["arc_easy", 3, "webgpu"],
  ["lambada_openai", 3, "webgpu"],
] as const) {
  test(`${task} on ${backend}: the first docs score as in lm_eval`, backend === "webgpu" ? onGpu : skip, async () => {
    const { metrics, numDocs, settings } = await evaluated(task, limit, 2048, backend);
    if (backend === "webgpu") assert.match(String(settings["kernels"]), /^webgpu-/);
    const samples = readHarnessRun("bos", task).samples.slice(0, limit);
    assert.equal(numDocs, limit);
    for (const key of ["acc", "acc_norm"] as const) {
      if (samples[0]![key] === undefined) continue;
      const wanted = samples.reduce((sum, sample) => sum + (sample[key] as number), 0) / limit;
      assert.equal(metrics[`${key},none`], wanted, key);
    }
    if (task !== "lambada_openai") return;
    const mean = samples.reduce((sum, { resps }) => sum + (resps[0] as [number, number])[0], 0) / limit;
    const off = Math.log(metrics["perplexity,none"] as number) + mean;
    assert.ok(Math.abs(off) < 1e-4, `mean log-likelihood is off by ${off}`);
  });
}

test("wikitext: the first pages have the word perplexity of lm_eval", skip, async () => {
  const { samples, max_length: maxLength } = readWikitextGolden("tokenizer-default");
  const pages = samples.slice(0, 2);
  const { metrics } = await evaluated("wikitext", pages.length, maxLength);
  const total = pages.reduce((sum, { ll }) => sum + ll, 0);
  const words = pages.reduce((sum, page) => sum + page.words, 0);
  const off = Math.log(metrics["word_perplexity,none"] as number) + total / words;
  assert.ok(Math.abs(off) < 1e-4, `nats a word are off by ${off}`);
});
