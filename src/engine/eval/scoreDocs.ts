/**
 * Has the docs of a task scored by a model. Docs are taken in runs of a bounded number of tokens; within a run
 * the longest are scored first, and the choices of a doc stay together, for they share a context that the model
 * needs to compute once only. Results are put back in order before anything is summed: the numbers do not
 * depend on runs, calls or order as long as the model's scores do not.
 */
import type { ScoreRequest, ScoreResult, ServedModel } from "../infer/servedModel.ts";
import type { PlannedScore, PlanOptions } from "./plan.ts";
import { gatherResults, planDoc } from "./plan.ts";
import type { ScoringResult, TaskDoc } from "./task.ts";

/** Tokens given to the model in one call, padding counted; bounds the time between two progress events. */
const callTokens = 8192;
/** Tokens planned before they are scored: 16 MB of ids, whatever the number of docs and examples. */
const runTokens = 2 ** 21;
/** Docs tokenized between two looks at the signal. */
const docsPerTurn = 64;

/** Thrown to leave work that was asked to stop. */
export class Stopped extends Error {}

/** @throws Stopped after an abort */
export function checkSignal(signal: AbortSignal): void {
  if (signal.aborted) throw new Stopped();
}

/** Lets timers and messages in: an abort could otherwise not be seen during long computations. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What was scored so far. */
export interface ScoreProgress {
  /** 0 to 1. */
  readonly share: number;
  readonly etaSeconds: number;
}

/** The part of a plan that belongs to one doc, longest sequence first. */
type DocPlan = readonly { readonly at: number; readonly length: number }[];

function docPlans(plan: readonly PlannedScore[]): DocPlan[] {
  const byDoc = new Map<number, { at: number; length: number }[]>();
  plan.forEach(({ doc, score }, at) => {
    const own = byDoc.get(doc) ?? [];
    own.push({ at, length: score.ids.length });
    byDoc.set(doc, own);
  });
  return [...byDoc.values()].map((own) => own.sort((a, b) => b.length - a.length || a.at - b.at));
}

/** Cuts a plan into calls of about `callTokens`: docs longest first, none in two calls unless too long alone. */
function makeCalls(plan: readonly PlannedScore[]): number[][] {
  const docs = docPlans(plan).sort((a, b) => (b[0]?.length ?? 0) - (a[0]?.length ?? 0));
  const calls: number[][] = [];
  let call: number[] = [];
  let longest = 0;
  const close = (): void => {
    if (call.length > 0) calls.push(call);
    call = [];
  };
  for (const doc of docs) {
    if (longest * (call.length + doc.length) > callTokens) close();
    for (const { at, length } of doc) {
      if (call.length > 0 && longest * (call.length + 1) > callTokens) close();
      if (call.length === 0) longest = length;
      call.push(at);
    }
  }
  close();
  return calls;
}

async function* scoreRun(
  plan: readonly PlannedScore[],
  model: ServedModel,
  signal: AbortSignal,
): AsyncGenerator<number, (ScoreResult | undefined)[]> {
  const results = new Array<ScoreResult | undefined>(plan.length);
  const total = plan.reduce((sum, { score }) => sum + score.ids.length, 0);
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
    yield done / total;
  }
  return results;
}

/** Plans docs from `first` on, until there are enough tokens for a run. */
async function planRun(
  taskName: string,
  docs: readonly TaskDoc[],
  first: number,
  options: PlanOptions,
  signal: AbortSignal,
): Promise<{ plan: PlannedScore[]; end: number }> {
  const plan: PlannedScore[] = [];
  let tokens = 0;
  let end = first;
  for (; end < docs.length && tokens < runTokens; end++) {
    if (end % docsPerTurn === 0) {
      await turn();
      checkSignal(signal);
    }
    const doc = docs[end];
    const own = doc ? planDoc(taskName, doc, end, options) : [];
    for (const entry of own) {
      tokens += entry.score.ids.length;
      plan.push({ ...entry, doc: end - first });
    }
  }
  return { plan, end };
}

/**
 * Scores all docs of a task.
 * @param onScored gets every doc with its results, in order
 * @returns results by doc and request
 * @throws Stopped after an abort; unprocessable, dataset_invalid, tokenizer_invalid
 */
export async function* scoreDocs(
  taskName: string,
  docs: readonly TaskDoc[],
  options: PlanOptions,
  model: ServedModel,
  signal: AbortSignal,
  onScored: (doc: number, results: readonly ScoringResult[]) => Promise<void>,
): AsyncGenerator<ScoreProgress, ScoringResult[][]> {
  const startMs = performance.now();
  const gathered: ScoringResult[][] = [];
  while (gathered.length < docs.length) {
    const first = gathered.length;
    const { plan, end } = await planRun(taskName, docs, first, options, signal);
    const scoring = scoreRun(plan, model, signal);
    let step = await scoring.next();
    while (!step.done) {
      const share = (first + (end - first) * step.value) / docs.length;
      yield { share, etaSeconds: ((performance.now() - startMs) / 1000 / share) * (1 - share) };
      step = await scoring.next();
    }
    for (const results of gatherResults(docs.slice(first, end), plan, step.value)) {
      await onScored(gathered.length, results);
      gathered.push(results);
    }
  }
  return gathered;
}
