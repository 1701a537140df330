/**
 * Where float32 ends: on PIQA's longest choice, whose log-likelihood is near -2,000, the harness's value and ours are
 * held against one computed in double precision by plain loops. It is why `evaluateModel.test.ts` grants large sums
 * more than 1e-4.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { planDoc } from "../../../src/engine/eval/plan.ts";
import { parseDocs } from "../../../src/engine/eval/readDocs.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import type { ScoreRequest } from "../../../src/engine/infer/servedModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { referenceForward, type Weights } from "../../ops/helpers/referenceForward.ts";
import { loadSafetensors } from "../../ops/helpers/safetensors.ts";
import { benchmarkFiles, benchmarks, goldenTasks, harnessRuns, readBenchmark, readHarnessRun } from "./goldenTasks.ts";

const stories = sharedData("checkpoints", "stories260K");
/** PIQA's doc with the longest choices; its first is scored. */
const longest = 314;
/** The harness was told so; the model itself says 512. */
const maxLength = 2048;

function longestRequest(): ScoreRequest {
  const task = goldenTasks.find(({ name }) => name === "piqa");
  assert.ok(task && stories);
  const doc = parseDocs(task, readBenchmark(benchmarkFiles["piqa"] ?? ""), longest + 1).docs[longest];
  assert.ok(doc);
  const tokenizer = loadTokenizer({ tokenizerJson: readFileSync(join(stories, "tokenizer.json")) });
  const [planned] = planDoc("piqa", doc, longest, { tokenizer, bos: "none", maxLength });
  assert.ok(planned);
  return planned.score;
}

function exactScore(config: LlamaConfig, weights: Weights, { ids, start }: ScoreRequest): number {
  const rows = referenceForward(config, weights, ids.slice(0, -1));
  let sum = 0;
  for (let at = start; at < ids.length; at++) {
    const row = rows[at - 1]!;
    sum += row[ids[at]!]! - Math.log(row.reduce((total, value) => total + Math.exp(value), 0));
  }
  return sum;
}

test(
  "the exact log-likelihood of PIQA's longest choice is more than 1e-4 from the harness's, and ours lies nearer to it",
  needsShared(stories, benchmarks, harnessRuns),
  async (t) => {
    const request = longestRequest();
    const { id, manifest, blobs } = resolveFolder(stories ?? "");
    const config = { ...manifest.config, maxPositionEmbeddings: maxLength };
    const exact = exactScore(config, loadSafetensors(join(stories ?? "", "model.safetensors")).values, request);
    const [response] = readHarnessRun("nobos", "piqa").samples[longest]?.resps ?? [];
    const harness = Array.isArray(response) ? response[0] : NaN;
    await activateTfjs("wasm");
    const { kernels } = await kernelsFor("wasm");
    const model = await loadServedModel({ id, manifest: { ...manifest, config }, blobs }, kernels);
    const [own] = await model.score([request], new AbortController().signal);
    model.close();
    const ours = own?.logLikelihood ?? NaN;
    t.diagnostic(`exact ${exact}, harness ${harness}, ours ${ours}`);
    assert.ok(Math.abs(harness - exact) > 1e-4);
    assert.ok(Math.abs(ours - exact) < Math.abs(harness - exact));
  },
);
