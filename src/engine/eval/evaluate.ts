/**
 * Runs benchmark tasks on a model in memory. Requests are scored longest first, so that batches are even and
 * the first one needs the most memory; results are put back in order before anything is summed. The numbers do
 * not depend on batches or order as long as the model's scores do not. Rules: lm-evaluation-harness v0.4.13.
 */
import { CodedError } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { EvaluateResult, EvaluateWork, TaskData, TaskResult } from "../backends/work.ts";
import type { ScoreRequest, ScoreResult, ServedModel } from "../infer/servedModel.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { checkVocabulary } from "../tokenizer/tokenizer.ts";
import { findTask, tasks } from "./index.ts";
import type { MetricName, ScoreItem } from "./metrics.ts";
import { metrics, standardError } from "./metrics.ts";
import type { PlannedScore, PlanOptions } from "./plan.ts";
import { gatherResults, planDoc } from "./plan.ts";
import type { TaskDocs } from "./readDocs.ts";
import { readDocs } from "./readDocs.ts";
import type { ScoringResult, Task } from "./task.ts";

/** The program whose numbers these are. */
export const harnessVersion = "lm_eval 0.4.13";
/** Tokens given to the model in one call, padding counted; bounds the time between two progress events. */
const callTokens = 8192;
/** Docs tokenized between two looks at the signal. */
const docsPerTurn = 64;

/** Share of the progress that belongs to one task, and what to say. */
interface TaskRun {
  readonly task: Task;
  readonly data: TaskData;
  readonly index: number;
  readonly count: number;
}

class Stopped extends Error {}

function checkSignal(signal: AbortSignal): void {
  if (signal.aborted) throw new Stopped();
}

/** Lets timers and messages in: an abort could otherwise not be seen during long computations. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Cuts the plan, longest first, into calls of about `callTokens`. */
function makeCalls(plan: readonly PlannedScore[]): number[][] {
  const order = plan.map((_, i) => i);
  const length = (i: number): number => plan[i]?.score.ids.length ?? 0;
  order.sort((a, b) => length(b) - length(a) || a - b);
  const calls: number[][] = [];
  let call: number[] = [];
  for (const i of order) {
    const longest = length(call[0] ?? i);
    if (call.length > 0 && longest * (call.length + 1) > callTokens) {
      calls.push(call);
      call = [];
    }
    call.push(i);
  }
  if (call.length > 0) calls.push(call);
  return calls;
}

function progressEvent(run: TaskRun, share: number, message: string, etaSeconds: number | null): WorkEvent {
  const fraction = Math.min(1, (run.index + share) / run.count);
  return { type: "progress", fraction, etaSeconds, message: `${run.task.name}: ${message}` };
}

async function planTask(
  run: TaskRun,
  docs: TaskDocs,
  options: PlanOptions,
  signal: AbortSignal,
): Promise<PlannedScore[]> {
  const plan: PlannedScore[] = [];
  for (const [index, doc] of docs.docs.entries()) {
    if (index % docsPerTurn === 0) {
      await turn();
      checkSignal(signal);
    }
    plan.push(...planDoc(run.task.name, doc, index, options));
  }
  return plan;
}

async function* scorePlan(
  run: TaskRun,
  plan: readonly PlannedScore[],
  model: ServedModel,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent, (ScoreResult | undefined)[]> {
  const results = new Array<ScoreResult | undefined>(plan.length);
  const total = plan.reduce((sum, { score }) => sum + score.ids.length, 0);
  const startMs = performance.now();
  let done = 0;
  for (const call of makeCalls(plan)) {
    checkSignal(signal);
    const requests = call.map((i) => plan[i]?.score).filter((score): score is ScoreRequest => score !== undefined);
    const scores = await model.score(requests, signal);
    checkSignal(signal);
    if (scores.length !== call.length) throw new Error("invariant: one score for each request");
    call.forEach((i, at) => {
      results[i] = scores[at];
    });
    done += requests.reduce((sum, { ids }) => sum + ids.length, 0);
    const etaSeconds = ((performance.now() - startMs) / 1000 / done) * (total - done);
    yield progressEvent(run, done / total, `${done} of ${total} tokens scored`, etaSeconds);
  }
  return results;
}

/** The items of one metric, a doc each; every doc of a task scores every metric of it. */
function itemsOf(name: MetricName, scored: readonly Readonly<Partial<Record<MetricName, ScoreItem>>>[]): ScoreItem[] {
  return scored.map((scores) => {
    const item = scores[name];
    if (!item) throw new Error(`invariant: no ${name} for a doc`);
    return item;
  });
}

/** JSON has no numbers that are not finite: a model that has diverged is reported as `NaN` or `Infinity`. */
function reported(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

/**
 * Aggregates the answers of all docs of a task, in steps: the bootstrap takes seconds.
 * @yields replicates done; the return value has the keys of the harness, such as `acc,none`
 */
export function* aggregate(
  task: Task,
  docs: TaskDocs["docs"],
  results: readonly (readonly ScoringResult[])[],
  bootstrapIterations: number,
): Generator<number, Record<string, number | string>> {
  const scored = docs.map((doc, i) => doc.score(results[i] ?? []));
  const values: Record<string, number | string> = {};
  for (const name of task.metrics) {
    const items = itemsOf(name, scored);
    values[`${name},none`] = reported(metrics[name].aggregate(items));
    const error = yield* standardError(name, items, bootstrapIterations);
    values[`${name}_stderr,none`] = typeof error === "number" ? reported(error) : error;
  }
  return values;
}

async function* runTask(
  run: TaskRun,
  work: EvaluateWork,
  options: PlanOptions,
  model: ServedModel,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent, TaskResult> {
  const { task, data } = run;
  const docs = await readDocs(task, data.path, work.limit);
  yield progressEvent(run, 0, `${docs.docs.length} docs`, null);
  const plan = await planTask(run, docs, options, signal);
  const scores = yield* scorePlan(run, plan, model, signal);
  const results = gatherResults(docs.docs, plan, scores);
  const aggregation = aggregate(task, docs.docs, results, work.bootstrapIterations);
  let step = aggregation.next();
  while (!step.done) {
    if (step.value % 10_000 === 0) yield progressEvent(run, 1, `bootstrap: ${step.value} replicates`, null);
    await turn();
    checkSignal(signal);
    step = aggregation.next();
  }
  return {
    task: task.name,
    version: task.version,
    numDocs: docs.docs.length,
    metrics: step.value,
    higherIsBetter: Object.fromEntries(task.metrics.map((name) => [name, metrics[name].higherIsBetter])),
    datasetDigest: docs.digest,
    settings: {
      harness: harnessVersion,
      num_fewshot: 0,
      bos: options.bos,
      max_length: options.maxLength,
      limit: work.limit,
      docs_in_file: docs.numDocsInFile,
      bootstrap_iterations: work.bootstrapIterations,
      dtype: "float32",
    },
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
  const found = findTasks(work);
  const results: TaskResult[] = [];
  try {
    for (const [index, { task, data }] of found.entries()) {
      checkSignal(signal);
      const run = { task, data, index, count: found.length };
      results.push(yield* runTask(run, work, options, model, signal));
    }
  } catch (error) {
    // A model that is asked to stop may throw as it likes; after an abort that is the same thing.
    if (!(error instanceof Stopped) && !signal.aborted) throw error;
    yield { type: "stopped" };
    return;
  }
  const result: EvaluateResult = { results };
  yield { type: "result", result, blobs: [] };
}
