/**
 * Log-likelihoods of continuations, as evaluation needs them (the contract of lm-evaluation-harness: the sum of
 * ln p of the continuation's tokens, and whether each was the argmax). Every request is computed alone, as
 * context first and continuation after it, so a result does not depend on what is scored beside it; a context
 * that the request before had too (the choices of one question) is taken from the cache, which gives the very
 * same numbers. Only rows of the continuation get logits, and never more than one bounded step of them.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Decoder, Sequence } from "./decoder.ts";
import { maxStepTokens, steps, stepTokensWithLogits } from "./decoder.ts";
import { checkIds, throwIfCancelled } from "./generate.ts";
import { logprobOf, rowStats } from "./logprobs.ts";
import type { ScoreRequest, ScoreResult } from "./servedModel.ts";

/**
 * @returns one result per request, in their order
 * @throws invalid_request when ids are out of range or too many; cancelled; diverged
 */
export async function score(
  decoder: Decoder,
  requests: readonly ScoreRequest[],
  signal: AbortSignal,
): Promise<ScoreResult[]> {
  requests.forEach((request, index) => checkScoreRequest(decoder, request, index));
  const results: ScoreResult[] = [];
  const capacity = requests.reduce((most, request) => Math.max(most, request.ids.length - 1), 1);
  const memo: ContextMemo = { capacity, ids: [], sequence: null };
  try {
    for (const request of requests) {
      const sequence = await contextOf(decoder, memo, request, signal);
      results.push(await scoreContinuation(decoder, sequence, request, signal));
    }
  } finally {
    memo.sequence?.close();
  }
  return results;
}

/** The context computed last, kept for a request that starts with the same one. */
interface ContextMemo {
  /** Positions that the longest request needs. */
  readonly capacity: number;
  ids: readonly number[];
  sequence: Sequence | null;
}

/** @returns a sequence that holds all of the request's ids before the one that predicts the continuation. */
async function contextOf(
  decoder: Decoder,
  memo: ContextMemo,
  request: ScoreRequest,
  signal: AbortSignal,
): Promise<Sequence> {
  const context = request.ids.slice(0, request.start - 1);
  if (memo.sequence !== null && sameIds(context, memo.ids)) {
    memo.sequence.truncate(context.length);
    return memo.sequence;
  }
  memo.sequence?.close();
  memo.sequence = null;
  const sequence = decoder.start(memo.capacity, signal);
  memo.ids = context;
  memo.sequence = sequence;
  for (const { part } of steps(context, maxStepTokens)) {
    throwIfCancelled(signal);
    await sequence.append(part, 0);
  }
  return sequence;
}

async function scoreContinuation(
  decoder: Decoder,
  sequence: Sequence,
  request: ScoreRequest,
  signal: AbortSignal,
): Promise<ScoreResult> {
  const { ids, start } = request;
  const vocab = decoder.vocabSize;
  let logLikelihood = 0;
  let isGreedy = true;
  for (const { start: first, part } of steps(ids.slice(start - 1, -1), stepTokensWithLogits(vocab))) {
    throwIfCancelled(signal);
    const logits = await sequence.append(part, part.length);
    for (let row = 0; row < part.length; row++) {
      const values = logits.subarray(row * vocab, (row + 1) * vocab);
      const stats = rowStats(values);
      const target = ids[start + first + row]!;
      logLikelihood += logprobOf(values, stats, target);
      isGreedy &&= stats.argmax === target;
    }
  }
  return { logLikelihood, isGreedy };
}

function sameIds(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i]);
}

function checkScoreRequest(decoder: Decoder, request: ScoreRequest, index: number): void {
  const { ids, start } = request;
  if (!Number.isSafeInteger(start) || start < 1 || start > ids.length) {
    throw new CodedError("invalid_request", `request ${index}: start is ${start}; wanted 1 to ${ids.length}`);
  }
  if (ids.length > decoder.maxLength + 1) {
    const most = decoder.maxLength + 1;
    throw new CodedError("invalid_request", `request ${index} has ${ids.length} tokens; at most ${most} can be scored`);
  }
  checkIds(ids, decoder.vocabSize);
}
