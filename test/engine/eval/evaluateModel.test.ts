/**
 * The whole of an evaluation, file to metrics, on a real trained model: what lm_eval 0.4.13 measured on the same
 * docs. `npm test` takes the first docs of each task; `CAMBIUM_EVAL_DOCS=all npm test -- test/engine/eval`, which CI
 * runs too, takes every doc of every task in both profiles.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import type { EvaluateResult } from "../../../src/engine/backends/work.ts";
import { aggregate } from "../../../src/engine/eval/aggregate.ts";
import type { BosProfile } from "../../../src/engine/eval/encodePair.ts";
import { evaluate } from "../../../src/engine/eval/evaluate.ts";
import { parseDocs } from "../../../src/engine/eval/readDocs.ts";
import type { SampleRecord } from "../../../src/engine/eval/sampleLog.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import type { ServedModel } from "../../../src/engine/infer/servedModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { benchmarkFiles, benchmarks, goldenTasks, harnessRuns, readBenchmark, readHarnessRun } from "./goldenTasks.ts";

const stories = sharedData("checkpoints", "stories260K");
const isWhole = process.env["CAMBIUM_EVAL_DOCS"] === "all";
/** Docs of a task that are taken; null for all. */
const limitOf = (task: string): number | null => (isWhole ? null : task === "wikitext" ? 1 : 12);

/** The harness was told max_length 2048, wikitext 512; the model itself says 512. */
function withLength(checkpoint: ResolvedCheckpoint, maxPositionEmbeddings: number): ResolvedCheckpoint {
  const { manifest } = checkpoint;
  return { ...checkpoint, manifest: { ...manifest, config: { ...manifest.config, maxPositionEmbeddings } } };
}

/** Log-likelihoods of the harness have five decimals; its own batches move them by up to 1.2e-4 in float32. */
const absoluteTolerance = 1e-4;
const relativeTolerance = 1e-5;

/** @returns the largest difference. */
function assertSamples(task: string, run: "bos" | "nobos", blobDir: string, digest: string): number {
  const lines = readFileSync(blobPath(blobDir, digest), "utf8").trimEnd().split("\n");
  const { samples } = readHarnessRun(run, task);
  assert.equal(lines.length, limitOf(task) ?? samples.length);
  let most = 0;
  for (const line of lines) {
    const sample = JSON.parse(line) as SampleRecord;
    const expected = samples[sample.doc_id];
    assert.ok(expected);
    assert.equal(sample.log_likelihoods.length, expected.resps.length);
    for (const [i, resp] of expected.resps.entries()) {
      const [wanted, greedy] = typeof resp === "number" ? [resp, 0] : resp;
      const difference = Math.abs(Number(sample.log_likelihoods[i]) - wanted);
      const where = `${task} (${run}) doc ${sample.doc_id}, request ${i}: off by ${difference}`;
      assert.ok(difference <= absoluteTolerance + relativeTolerance * Math.abs(wanted), where);
      assert.equal(sample.is_greedy[i], greedy === 1, where);
      most = Math.max(most, difference);
    }
  }
  return most;
}

async function measure(
  model: ServedModel,
  checkpoint: ResolvedCheckpoint,
  bos: BosProfile,
  blobDir: string,
): Promise<EvaluateResult["results"]> {
  const tokenizer = loadTokenizer({
    tokenizerJson: readFileSync(join(stories ?? "", "tokenizer.json")),
    tokenizerConfigJson: readFileSync(join(stories ?? "", "tokenizer_config.json")),
  });
  const results: EvaluateResult["results"][number][] = [];
  for (const { name } of goldenTasks) {
    const work = {
      checkpoint,
      tasks: [{ task: name, path: join(benchmarks ?? "", benchmarkFiles[name] ?? "") }],
      limit: limitOf(name),
      bos,
      maxLength: name === "wikitext" ? 512 : 2048,
      bootstrapIterations: 0,
      blobDir,
    };
    for await (const event of evaluate(work, model, tokenizer, new AbortController().signal)) {
      if (event.type === "result") results.push(...(event.result as EvaluateResult).results);
    }
  }
  return results;
}

/** The harness's metrics on the first docs: its own log-likelihoods of them, aggregated. */
function expectedMetrics(name: string, run: "bos" | "nobos"): Record<string, number | string> {
  const task = goldenTasks.find((one) => one.name === name);
  assert.ok(task);
  const limit = limitOf(name);
  const { docs } = parseDocs(task, readBenchmark(benchmarkFiles[name] ?? ""), limit);
  const answers = readHarnessRun(run, name)
    .samples.slice(0, docs.length)
    .map(({ resps }) =>
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

test(
  "stories260K measures as in lm_eval, on every task and in both profiles",
  needsShared(stories, benchmarks, harnessRuns),
  async (t) => {
    await activateTfjs("wasm");
    const { kernels } = await kernelsFor("wasm");
    const checkpoint = withLength(resolveFolder(stories ?? ""), 2048);
    const model = await loadServedModel(checkpoint, kernels);
    const blobDir = mkdtempSync(join(tmpdir(), "cambium-eval-"));
    try {
      for (const [bos, run] of [
        ["none", "nobos"],
        ["tokenizer", "bos"],
      ] as const) {
        const results = await measure(model, checkpoint, bos, blobDir);
        assert.equal(results.length, goldenTasks.length);
        for (const { task, metrics, samples } of results) {
          const most = assertSamples(task, run, blobDir, samples?.blob.digest ?? "");
          t.diagnostic(
            `${task} (${run}): ${samples?.numSamples} docs, log-likelihoods off by at most ${most.toFixed(6)}`,
          );
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
      rmSync(blobDir, { recursive: true, force: true });
    }
  },
);
