/**
 * Has the docs of a task scored by a model. Docs are taken in runs of a bounded number of tokens; within a run
 * the longest are scored first, and the requests of a doc stay together, for they share a beginning that the model
 * needs to compute once only. How many go into one call follows the clock, so that there is progress to tell of
 * every second. None of this touches a number: results are put back in order before anything is summed, and a
 * score does not depend on what is scored beside it (`infer/score.ts`).
 */
import type { ScoreRequest, ScoreResult, ServedModel } from "../infer/servedModel.ts";
import type { PlannedScore, PlanOptions } from "./plan.ts";
import { gatherResults, planDoc } from "./plan.ts";
import type { ScoringResult, TaskDoc } from "./task.ts";

/** Tokens given to the model in one call, at first and at most; a beginning that requests share counts for each. */
const firstCallTokens = 1024;
const maxCallTokens = 2 ** 16;
/** A call that took less may be followed by one twice as long, one that took twice as much by one half as long. */
const callMs = 500;
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

/** What one call of the model has brought. */
export interface ScoreStep {
  /** Share of all docs, 0 to 1. */
  readonly share: number;
  readonly etaSeconds: number;
  /** The docs that are now scored wholly, in any order, with their results. */
  readonly scored: readonly { readonly doc: number; readonly results: readonly ScoringResult[] }[];
}

export interface ScoringTask {
  readonly name: string;
  readonly docs: readonly TaskDoc[];
  /** Results of docs that were scored before; the model is not asked about them. */
  readonly known: ReadonlyMap<number, readonly ScoringResult[]>;
}

/** A doc's part of a plan. */
interface DocPlan {
  readonly doc: number;
  readonly entries: readonly PlannedScore[];
  readonly tokens: number;
  readonly longest: number;
}

/** Plans docs that are not known from `first` on, until there are enough tokens for a run. */
async function planRun(
  { name, docs, known }: ScoringTask,
  first: number,
  options: PlanOptions,
  signal: AbortSignal,
): Promise<{ plans: DocPlan[]; end: number }> {
  const plans: DocPlan[] = [];
  let tokens = 0;
  let end = first;
  for (; end < docs.length && tokens < runTokens; end++) {
    if (end % docsPerTurn === 0) {
      await turn();
      checkSignal(signal);
    }
    const doc = docs[end];
    if (!doc || known.has(end)) continue;
    const entries = planDoc(name, doc, end, options);
    const lengths = entries.map(({ score }) => score.ids.length);
    const own = lengths.reduce((sum, length) => sum + length, 0);
    plans.push({ doc: end, entries, tokens: own, longest: Math.max(0, ...lengths) });
    tokens += own;
  }
  return { plans: plans.sort((a, b) => b.longest - a.longest || a.doc - b.doc), end };
}

/** The size of the next call, from how long the last one took. */
class Pace {
  tokens = firstCallTokens;

  took(ms: number): void {
    if (ms < callMs) this.tokens = Math.min(maxCallTokens, this.tokens * 2);
    else if (ms > 2 * callMs) this.tokens = Math.max(firstCallTokens / 8, Math.floor(this.tokens / 2));
  }
}

/** Takes docs from `from` on until they fill a call; at least one. */
function takeCall(plans: readonly DocPlan[], from: number, tokens: number): DocPlan[] {
  const taken: DocPlan[] = [];
  let sum = 0;
  for (let i = from; i < plans.length; i++) {
    const plan = plans[i];
    if (!plan || (taken.length > 0 && sum + plan.tokens > tokens)) break;
    taken.push(plan);
    sum += plan.tokens;
  }
  return taken;
}

/** One doc may have the windows of a whole book: its requests go in calls of their own. */
async function scoreCall(
  call: readonly DocPlan[],
  model: ServedModel,
  signal: AbortSignal,
  callTokens: number,
): Promise<ScoreResult[]> {
  const requests = call.flatMap(({ entries }) => entries.map(({ score }) => score));
  const results: ScoreResult[] = [];
  let part: ScoreRequest[] = [];
  let tokens = 0;
  for (const [i, request] of requests.entries()) {
    part.push(request);
    tokens += request.ids.length;
    if (tokens < callTokens && i + 1 < requests.length) continue;
    checkSignal(signal);
    const scores = await model.score(part, signal);
    if (scores.length !== part.length) throw new Error("invariant: one score for each request");
    results.push(...scores);
    part = [];
    tokens = 0;
  }
  checkSignal(signal);
  return results;
}

/** Results of the docs of a call. */
function resultsOf(call: readonly DocPlan[], docs: readonly TaskDoc[], scores: readonly ScoreResult[]) {
  const plan = call.flatMap(({ entries }, at) => entries.map((entry) => ({ ...entry, doc: at })));
  const own = call.map(({ doc }) => docs[doc]).filter((doc): doc is TaskDoc => doc !== undefined);
  return gatherResults(own, plan, scores).map((results, at) => ({ doc: call[at]?.doc ?? -1, results }));
}

/**
 * Scores all docs of a task.
 * @returns results by doc and request
 * @throws Stopped after an abort; unprocessable, dataset_invalid, tokenizer_invalid
 */
export async function* scoreDocs(
  task: ScoringTask,
  options: PlanOptions,
  model: ServedModel,
  signal: AbortSignal,
): AsyncGenerator<ScoreStep, (readonly ScoringResult[])[]> {
  const { docs, known } = task;
  const startMs = performance.now();
  const gathered = docs.map((_, i): readonly ScoringResult[] | undefined => known.get(i));
  const pace = new Pace();
  let fresh = 0;
  for (let first = 0; first < docs.length;) {
    const { plans, end } = await planRun(task, first, options, signal);
    const tokensOfRun = plans.reduce((sum, { tokens }) => sum + tokens, 0);
    let tokens = 0;
    for (let at = 0; at < plans.length;) {
      const call = takeCall(plans, at, pace.tokens);
      const callStartMs = performance.now();
      const scored = resultsOf(call, docs, await scoreCall(call, model, signal, pace.tokens));
      for (const { doc, results } of scored) gathered[doc] = results;
      at += call.length;
      tokens += call.reduce((sum, plan) => sum + plan.tokens, 0);
      pace.took(performance.now() - callStartMs);
      // In docs of the run, by tokens: the longest come first, and a count of docs would promise too little.
      const worth = plans.length * (tokens / tokensOfRun);
      const left = docs.length - end + plans.length - worth;
      const seconds = (performance.now() - startMs) / 1000;
      yield { share: 1 - left / docs.length, etaSeconds: (seconds / (fresh + worth)) * left, scored };
    }
    fresh += plans.length;
    first = end;
  }
  return gathered.map((results, i) => {
    if (!results) throw new Error(`invariant: doc ${i} was not scored`);
    return results;
  });
}
