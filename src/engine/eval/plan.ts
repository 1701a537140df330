/**
 * The token ids that a task asks a model to score, before any is scored: each request becomes one sequence, or
 * several windows for a rolling one. Pure: docs, tokenizer and a length in; ids out. Results find their way
 * back by doc and request.
 */
import { CodedError } from "../../ops/errors.ts";
import type { ScoreRequest, ScoreResult } from "../infer/servedModel.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { BosProfile } from "./encodePair.ts";
import { createContextEncoder, encodePair, encodeText, prefixToken } from "./encodePair.ts";
import type { ScoringRequest, ScoringResult, TaskDoc } from "./task.ts";
import type { Window } from "./windows.ts";
import { rollingWindows } from "./windows.ts";

/** One sequence for the model, and whose it is. */
export interface PlannedScore {
  readonly doc: number;
  readonly request: number;
  readonly score: ScoreRequest;
}

export interface PlanOptions {
  readonly tokenizer: Tokenizer;
  readonly bos: BosProfile;
  /** Input tokens a model sees at once. */
  readonly maxLength: number;
}

/** Cuts a window to the model's length from the left: `maxLength` inputs and the last token, which is no input. */
function toScoreRequest(window: Window, maxLength: number, where: string): ScoreRequest {
  const { context, continuation } = window;
  if (continuation.length === 0) throw new CodedError("dataset_invalid", `${where}: the continuation has no token`);
  if (context.length === 0) throw new CodedError("dataset_invalid", `${where}: the context has no token`);
  if (continuation.length > maxLength) {
    const problem = `the continuation has ${continuation.length} tokens, max_length is ${maxLength}`;
    throw new CodedError("unprocessable", `${where}: ${problem}`);
  }
  const ids = [...context, ...continuation].slice(-(maxLength + 1));
  return { ids, start: ids.length - continuation.length };
}

function planRequest(
  request: ScoringRequest,
  options: PlanOptions,
  encodeContext: (text: string) => readonly number[],
  where: string,
): ScoreRequest[] {
  const { tokenizer, bos, maxLength } = options;
  if (request.kind === "loglikelihood") {
    const pair = encodePair(request.context, request.continuation, tokenizer, bos, encodeContext);
    return [toScoreRequest(pair, maxLength, where)];
  }
  const ids = encodeText(request.text, tokenizer, bos);
  const windows = ids.length === 0 ? [] : rollingWindows(ids, prefixToken(tokenizer), maxLength);
  return windows.map((window) => toScoreRequest(window, maxLength, where));
}

/**
 * @throws unprocessable naming doc and lengths when a continuation does not fit; dataset_invalid, tokenizer_invalid
 */
export function planDoc(taskName: string, doc: TaskDoc, docIndex: number, options: PlanOptions): PlannedScore[] {
  const encodeContext = createContextEncoder(options.tokenizer, options.bos);
  return doc.requests.flatMap((request, requestIndex) => {
    const where = `${taskName} doc ${docIndex}, request ${requestIndex}`;
    return planRequest(request, options, encodeContext, where).map((score) => {
      return { doc: docIndex, request: requestIndex, score };
    });
  });
}

/**
 * Adds the scores of windows up to one result a request, in the order of the plan, whatever the order in which
 * they were computed: floating-point sums depend on it.
 * @param results `results[i]` answers `plan[i]`
 */
export function gatherResults(
  docs: readonly TaskDoc[],
  plan: readonly PlannedScore[],
  results: readonly (ScoreResult | undefined)[],
): ScoringResult[][] {
  const gathered = docs.map((doc) => doc.requests.map(() => ({ logLikelihood: 0, isGreedy: true })));
  plan.forEach(({ doc, request }, i) => {
    const target = gathered[doc]?.[request];
    const result = results[i];
    if (!target || !result) throw new Error(`invariant: request ${request} of doc ${doc} was not scored`);
    target.logLikelihood += result.logLikelihood;
    target.isGreedy &&= result.isGreedy;
  });
  return gathered;
}
