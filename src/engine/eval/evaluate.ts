/**
 * Runs benchmark tasks on a model in memory: reads the docs, has them scored, and makes of the answers one
 * result a task and a log of samples. Every result says on which data and how it was measured. Rules:
 * lm-evaluation-harness v0.4.13.
 */
import { CodedError } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { EvaluateResult, EvaluateWork, SampleLogRef, TaskData, TaskResult } from "../backends/work.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { checkVocabulary } from "../tokenizer/tokenizer.ts";
import { aggregate } from "./aggregate.ts";
import type { Shots } from "./fewshot.ts";
import { checkNumFewshot, checkSeed, fewshotSeed, loadShots } from "./fewshot.ts";
import { findTask, tasks } from "./index.ts";
import { metrics } from "./metrics.ts";
import type { PlanOptions } from "./plan.ts";
import type { TaskDocs } from "./readDocs.ts";
import { readDocs } from "./readDocs.ts";
import type { PartKey } from "./parts.ts";
import { PartWriter, readParts } from "./parts.ts";
import { createSampleLog, makeSample } from "./sampleLog.ts";
import { checkSignal, scoreDocs, Stopped, turn } from "./scoreDocs.ts";
import type { ScoringResult, Task, TaskDoc } from "./task.ts";

/** The program whose numbers these are, and the commit that the rules were read from. */
export const harnessVersion = "lm_eval 0.4.13";
export const harnessCommit = "4e7e0d47f";

/** What the two ways to begin a sequence are called beside the harness's versions. */
const profileNames = { none: "no-bos", tokenizer: "tokenizer-default" } as const;

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
  /** What the task under way has not yet kept. */
  readonly unkept: { writer: PartWriter | null };
}

function progressEvent(run: TaskRun, share: number, message: string, etaSeconds: number | null): WorkEvent {
  const fraction = Math.min(1, (run.index + share) / run.count);
  return { type: "progress", fraction, etaSeconds, message: `${run.task.name}: ${message}` };
}

/** Scores the docs that no earlier attempt has scored; keeps what it has done as it goes. */
async function* scoreTask(
  run: TaskRun,
  docs: readonly TaskDoc[],
  key: PartKey,
): AsyncGenerator<WorkEvent, (readonly ScoringResult[])[]> {
  const { task, work, options, model, signal } = run;
  const counts = docs.map(({ requests }) => requests.length);
  const known = readParts(work.done ?? [], key, counts);
  if (known.size > 0) yield progressEvent(run, 0, `${known.size} of ${docs.length} docs were scored before`, null);
  const writer = new PartWriter(key);
  run.unkept.writer = writer;
  const scoring = scoreDocs({ name: task.name, docs, known }, options, model, signal);
  let numScored = known.size;
  let step = await scoring.next();
  while (!step.done) {
    const { share, etaSeconds, scored } = step.value;
    numScored += scored.length;
    for (const { doc, results } of scored) writer.add(doc, results);
    const part = writer.take();
    if (part) yield { type: "part", data: part };
    yield progressEvent(run, share, `${numScored} of ${docs.length} docs scored`, etaSeconds);
    step = await scoring.next();
  }
  return step.value;
}

async function writeLog(
  run: TaskRun,
  docs: readonly TaskDoc[],
  hashes: readonly string[],
  results: readonly (readonly ScoringResult[])[],
): Promise<SampleLogRef | null> {
  const { task, work, signal } = run;
  if (work.blobDir === undefined) return null;
  const log = await createSampleLog(work.blobDir);
  try {
    for (const [i, doc] of docs.entries()) {
      checkSignal(signal);
      await log.add(makeSample(task.name, i, hashes[i] ?? "", doc, task.metrics, results[i] ?? []));
    }
    return await log.finish();
  } finally {
    await log.abort();
  }
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

/** How a result was made: the harness's `name` and `sample_len` among it. */
function settingsOf({ task, data, work, options }: TaskRun, docs: TaskDocs, shots: Shots): JsonObject {
  return {
    ...{ name: task.name, sample_len: docs.docs.length },
    ...{ harness: harnessVersion, harness_commit: harnessCommit, task_version: task.version },
    num_fewshot: shots.count,
    fewshot_split: shots.split,
    fewshot_digest: shots.digest,
    seed: work.seed ?? fewshotSeed,
    ...{ bos: options.bos, profile: profileNames[options.bos] },
    max_length: options.maxLength,
    limit: work.limit,
    docs_in_file: docs.numDocsInFile,
    bootstrap_iterations: work.bootstrapIterations,
    // What the model computes in, whatever the checkpoint is stored in.
    dtype: "float32",
    backend: work.backend ?? null,
    kernels: work.kernels ?? null,
    data: data.origin ?? null,
  };
}

async function* runTask(run: TaskRun): AsyncGenerator<WorkEvent, TaskResult> {
  const { task, data, work } = run;
  const file = await readDocs(task, data.path, work.limit);
  const shots = await loadShots(task, data, work.numFewshot ?? 0, work.seed ?? fewshotSeed);
  const docs = shots.prepend(file);
  yield progressEvent(run, 0, `${docs.length} docs`, null);
  const key = { task: task.name, datasetDigest: file.digest, fewshotDigest: shots.digest };
  const results = yield* scoreTask(run, docs, key);
  const samples = await writeLog(run, docs, file.hashes, results);
  return {
    task: task.name,
    version: task.version,
    numDocs: docs.length,
    metrics: yield* aggregateTask(run, docs, results),
    higherIsBetter: Object.fromEntries(task.metrics.map((name) => [name, metrics[name].higherIsBetter])),
    datasetDigest: file.digest,
    settings: settingsOf(run, file, shots),
    ...(samples ? { samples } : {}),
  };
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
  checkSeed(work.seed ?? fewshotSeed);
  const found = findTasks(work);
  const results: TaskResult[] = [];
  const unkept: TaskRun["unkept"] = { writer: null };
  try {
    for (const [index, { task, data }] of found.entries()) {
      checkSignal(signal);
      const run = { task, data, index, count: found.length, work, options, model, signal, unkept };
      results.push(yield* runTask(run));
    }
  } catch (error) {
    // A model that is asked to stop may throw as it likes; after an abort that is the same thing.
    if (!(error instanceof Stopped) && !signal.aborted) throw error;
    const part = unkept.writer?.take(0);
    if (part) yield { type: "part", data: part };
    yield { type: "stopped" };
    return;
  }
  const result: EvaluateResult = { results };
  yield { type: "result", result, blobs: results.flatMap(({ samples }) => (samples ? [samples.blob] : [])) };
}
