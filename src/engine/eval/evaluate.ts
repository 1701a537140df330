/**
 * Runs benchmark tasks on a model in memory: reads the docs, has them scored, and makes of the answers one
 * result a task and a log of samples. Every result says on which data and how it was measured. Rules:
 * lm-evaluation-harness v0.4.13.
 */
import { CodedError } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { EvaluateResult, EvaluateWork, TaskData, TaskResult } from "../backends/work.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { checkVocabulary } from "../tokenizer/tokenizer.ts";
import { aggregate } from "./aggregate.ts";
import type { Shots } from "./fewshot.ts";
import { checkNumFewshot, fewshotSeed, loadShots } from "./fewshot.ts";
import { findTask, tasks } from "./index.ts";
import { metrics } from "./metrics.ts";
import type { PlanOptions } from "./plan.ts";
import type { TaskDocs } from "./readDocs.ts";
import { readDocs } from "./readDocs.ts";
import type { SampleLog } from "./sampleLog.ts";
import { createSampleLog, makeSample } from "./sampleLog.ts";
import { checkSignal, scoreDocs, Stopped, turn } from "./scoreDocs.ts";
import type { ScoringResult, Task, TaskDoc } from "./task.ts";

/** The program whose numbers these are. */
export const harnessVersion = "lm_eval 0.4.13";

/** One task of an evaluation: what is measured, with what, and its share of the progress. */
interface TaskRun {
  readonly task: Task;
  readonly data: TaskData;
  readonly index: number;
  readonly count: number;
  readonly work: EvaluateWork;
  readonly options: PlanOptions;
  readonly model: ServedModel;
  readonly signal: AbortSignal;
}

function progressEvent(run: TaskRun, share: number, message: string, etaSeconds: number | null): WorkEvent {
  const fraction = Math.min(1, (run.index + share) / run.count);
  return { type: "progress", fraction, etaSeconds, message: `${run.task.name}: ${message}` };
}

/** Scores the docs and logs each; `docs` have their examples already. */
async function* scoreTask(
  run: TaskRun,
  docs: readonly TaskDoc[],
  hashes: readonly string[],
  log: SampleLog | null,
): AsyncGenerator<WorkEvent, ScoringResult[][]> {
  const { task, options, model, signal } = run;
  const scoring = scoreDocs(task.name, docs, options, model, signal, async (index, results) => {
    const doc = docs[index];
    if (log && doc) await log.add(makeSample(index, hashes[index] ?? "", doc, task.metrics, results));
  });
  let step = await scoring.next();
  while (!step.done) {
    const { share, etaSeconds } = step.value;
    yield progressEvent(run, share, `${Math.floor(share * docs.length)} of ${docs.length} docs scored`, etaSeconds);
    step = await scoring.next();
  }
  return step.value;
}

async function* aggregateTask(
  run: TaskRun,
  docs: readonly TaskDoc[],
  results: readonly (readonly ScoringResult[])[],
): AsyncGenerator<WorkEvent, TaskResult["metrics"]> {
  const aggregation = aggregate(run.task, docs, results, run.work.bootstrapIterations);
  let step = aggregation.next();
  while (!step.done) {
    if (step.value % 10_000 === 0) yield progressEvent(run, 1, `bootstrap: ${step.value} replicates`, null);
    await turn();
    checkSignal(run.signal);
    step = aggregation.next();
  }
  return step.value;
}

function settingsOf({ work, options }: TaskRun, docs: TaskDocs, shots: Shots): JsonObject {
  return {
    harness: harnessVersion,
    num_fewshot: shots.count,
    fewshot_split: shots.split,
    fewshot_digest: shots.digest,
    seed: fewshotSeed,
    bos: options.bos,
    max_length: options.maxLength,
    limit: work.limit,
    docs_in_file: docs.numDocsInFile,
    bootstrap_iterations: work.bootstrapIterations,
    // What the model computes in, whatever the checkpoint is stored in.
    dtype: "float32",
    backend: work.backend ?? null,
  };
}

async function* runTask(run: TaskRun): AsyncGenerator<WorkEvent, TaskResult> {
  const { task, data, work } = run;
  const file = await readDocs(task, data.path, work.limit);
  const shots = await loadShots(task, data, work.numFewshot ?? 0);
  const docs = shots.prepend(file);
  yield progressEvent(run, 0, `${docs.length} docs`, null);
  const log = work.blobDir === undefined ? null : await createSampleLog(work.blobDir);
  try {
    const results = yield* scoreTask(run, docs, file.hashes, log);
    return {
      task: task.name,
      version: task.version,
      numDocs: docs.length,
      metrics: yield* aggregateTask(run, docs, results),
      higherIsBetter: Object.fromEntries(task.metrics.map((name) => [name, metrics[name].higherIsBetter])),
      datasetDigest: file.digest,
      settings: settingsOf(run, file, shots),
      ...(log ? { samples: await log.finish() } : {}),
    };
  } finally {
    await log?.abort();
  }
}

function findTasks(work: EvaluateWork): { task: Task; data: TaskData }[] {
  return work.tasks.map((data) => {
    const task = findTask(data.task);
    if (task) return { task, data };
    const known = tasks.map(({ name }) => name).join(", ");
    throw new CodedError("invalid_request", `task ${JSON.stringify(data.task)} is not known; there are ${known}`);
  });
}

function checkMaxLength(work: EvaluateWork, model: ServedModel): number {
  const maxLength = work.maxLength ?? model.maxLength;
  if (Number.isSafeInteger(maxLength) && maxLength >= 1 && maxLength <= model.maxLength) return maxLength;
  throw new CodedError("invalid_request", `max_length is ${maxLength}, 1 to ${model.maxLength} is wanted`);
}

/**
 * Evaluates a loaded model.
 * @returns progress, then one `result` whose value is an `EvaluateResult`, or `stopped` after an abort
 * @throws invalid_request, dataset_invalid, tokenizer_invalid, unprocessable
 */
export async function* evaluate(
  work: EvaluateWork,
  model: ServedModel,
  tokenizer: Tokenizer,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent> {
  checkVocabulary(tokenizer, model.vocabSize);
  const options: PlanOptions = { tokenizer, bos: work.bos, maxLength: checkMaxLength(work, model) };
  checkNumFewshot(work.numFewshot ?? 0);
  const found = findTasks(work);
  const results: TaskResult[] = [];
  try {
    for (const [index, { task, data }] of found.entries()) {
      checkSignal(signal);
      const run = { task, data, index, count: found.length, work, options, model, signal };
      results.push(yield* runTask(run));
    }
  } catch (error) {
    // A model that is asked to stop may throw as it likes; after an abort that is the same thing.
    if (!(error instanceof Stopped) && !signal.aborted) throw error;
    yield { type: "stopped" };
    return;
  }
  const result: EvaluateResult = { results };
  yield { type: "result", result, blobs: results.flatMap(({ samples }) => (samples ? [samples.blob] : [])) };
}
