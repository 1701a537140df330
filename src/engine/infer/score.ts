/**
 * Log-likelihoods of continuations, as evaluation needs them (the contract of lm-evaluation-harness: the sum of
 * ln p of the continuation's tokens, and whether each was the argmax), for many requests at once:
 *
 * - What neighbouring requests have in common at their beginning (the choices of one question share it) is computed
 *   once and kept in the cache; each of them goes on from there.
 * - Many such groups are in work at the same time, and every step takes rows of all of them through the weights
 *   together, each its own way along: its beginning, then one request's rest after another's.
 * - Only rows of the continuation get logits, and never more than one bounded step of them.
 *
 * None of this shows in a result: the kernels compute each row by itself, from the same numbers before it, so a
 * request gets the bits that one pass over it alone would give, and that generation's `echo` gives.
 */
import { CodedError } from "../../ops/errors.ts";
import type { BatchDecoder, Context, StepPart } from "./decoder.ts";
import { maxStepLogits } from "./decoder.ts";
import { checkIds, throwIfCancelled } from "./generate.ts";
import type { LogitRow } from "./logitRow.ts";
import { logprobOf, rowStats } from "./logprobs.ts";
import type { ScoreRequest, ScoreResult } from "./servedModel.ts";

/** Tokens in one step, at most. */
export const scoreStepTokens = 1024;
/** Groups in work at once, and the positions that their caches have room for together, at most. */
const maxGroups = 128;
const maxHeldTokens = 3 * scoreStepTokens;
/** Caches grow in steps of so many positions (model/kvCache.ts). */
const cacheStep = 64;
/** A common beginning shorter than this is not worth keeping requests in one line for. */
const minSharedTokens = 4;

/** Requests that share the beginning of their ids; they are computed one after another. */
interface Group {
  readonly requests: { readonly index: number; readonly request: ScoreRequest }[];
  /** Ids that all of them begin with, none of which predicts a continuation of any. */
  shared: number;
}

/**
 * @returns one result per request, in their order
 * @throws invalid_request when ids are out of range or too many; cancelled; diverged
 */
export async function score(
  decoder: BatchDecoder,
  requests: readonly ScoreRequest[],
  signal: AbortSignal,
): Promise<ScoreResult[]> {
  requests.forEach((request, index) => checkScoreRequest(decoder, request, index));
  const results = requests.map(() => ({ logLikelihood: 0, isGreedy: true }));
  const waiting = groupRequests(requests);
  let next = 0;
  let runs: GroupRun[] = [];
  try {
    for (;;) {
      let held = runs.reduce((sum, run) => sum + roomOf(run.capacity), 0);
      for (let group = waiting[next]; group; group = waiting[next]) {
        const needed = roomOf(capacityOf(group));
        if (runs.length > 0 && (runs.length >= maxGroups || held + needed > maxHeldTokens)) break;
        runs.push(new GroupRun(decoder, group, results));
        held += needed;
        next += 1;
      }
      if (runs.length === 0) return results;
      throwIfCancelled(signal);
      await step(decoder, runs);
      runs = runs.filter((run) => !run.closeWhenDone());
      await turnOfEvents();
    }
  } finally {
    for (const run of runs) run.close();
  }
}

/** Takes as many rows of the groups through the model as one step may have, the first groups first. */
async function step(decoder: BatchDecoder, runs: readonly GroupRun[]): Promise<void> {
  let tokens = scoreStepTokens;
  let logitRows = Math.max(1, Math.floor(maxStepLogits / decoder.vocabSize));
  const parts: { run: GroupRun; part: StepPart }[] = [];
  for (const run of runs) {
    const part = run.take(tokens, logitRows);
    if (part === null) continue;
    parts.push({ run, part });
    tokens -= part.ids.length;
    logitRows -= part.rows;
    if (tokens <= 0) break;
  }
  const rows = await decoder.step(parts.map(({ part }) => part));
  let at = 0;
  for (const { run, part } of parts) {
    run.took(rows.slice(at, at + part.rows));
    at += part.rows;
  }
}

/** A group on its way: the shared beginning, then the rest of one request after another. */
class GroupRun {
  /** Positions that its longest request needs. */
  readonly capacity: number;
  readonly #group: Group;
  readonly #results: { logLikelihood: number; isGreedy: boolean }[];
  readonly #context: Context;
  /** The request that is being computed. */
  #at = 0;

  constructor(decoder: BatchDecoder, group: Group, results: { logLikelihood: number; isGreedy: boolean }[]) {
    this.#group = group;
    this.#results = results;
    this.capacity = capacityOf(group);
    this.#context = decoder.start(this.capacity);
  }

  /** @returns what comes next, or null where it finds no room. */
  take(tokens: number, logitRows: number): StepPart | null {
    const { request } = this.#current();
    const { ids, start } = request;
    const from = this.#context.length;
    // Rows from here on predict the continuation.
    const scored = start - 1;
    const most = Math.min(ids.length - 1, from + tokens, Math.max(from, scored) + logitRows);
    // The beginning is a part of its own, so that the first request takes no other way than the rest.
    const end = from < this.#group.shared ? Math.min(most, this.#group.shared) : most;
    if (end <= from) return null;
    return { context: this.#context, ids: ids.slice(from, end), rows: Math.max(0, end - Math.max(from, scored)) };
  }

  /** Reads the logits of a part that was computed. */
  took(rows: readonly LogitRow[]): void {
    const { index, request } = this.#current();
    const { ids } = request;
    const result = this.#results[index];
    const end = this.#context.length;
    for (const [i, row] of rows.entries()) {
      if (!result) break;
      const stats = rowStats(row);
      const target = ids[end - rows.length + i + 1]!;
      result.logLikelihood += logprobOf(row, stats, target);
      result.isGreedy &&= stats.argmax === target;
    }
    if (end < ids.length - 1) return;
    this.#context.truncate(this.#group.shared);
    this.#at += 1;
  }

  /** @returns whether all of the group's requests have their results; its cache is given back then. */
  closeWhenDone(): boolean {
    const isDone = this.#at >= this.#group.requests.length;
    if (isDone) this.close();
    return isDone;
  }

  close(): void {
    this.#context.close();
  }

  #current(): Group["requests"][number] {
    const current = this.#group.requests[this.#at];
    if (!current) throw new Error("invariant: a group that is done takes no part in a step");
    return current;
  }
}

function capacityOf({ requests }: Group): number {
  return requests.reduce((most, { request }) => Math.max(most, request.ids.length - 1), 1);
}

function roomOf(capacity: number): number {
  return Math.ceil(capacity / cacheStep) * cacheStep;
}

/** Puts neighbours that share enough of their beginning into one group each. */
function groupRequests(requests: readonly ScoreRequest[]): Group[] {
  const groups: Group[] = [];
  for (const [index, request] of requests.entries()) {
    // Nothing to score: it has its result.
    if (request.start === request.ids.length) continue;
    const group = groups.at(-1);
    const first = group?.requests[0]?.request;
    const shared = group && first ? Math.min(group.shared, commonLength(first.ids, request.ids), request.start - 1) : 0;
    // Joining must not cost those that are there already what they share, nor put strangers in one line.
    const isWorth = group !== undefined && shared >= minSharedTokens && 2 * shared >= group.shared;
    const isOwn = 2 * shared >= request.start - 1;
    if (group && isWorth && isOwn) {
      group.shared = shared;
      group.requests.push({ index, request });
    } else groups.push({ requests: [{ index, request }], shared: request.start - 1 });
  }
  // A request alone has nothing to go back to.
  for (const group of groups) if (group.requests.length === 1) group.shared = 0;
  return groups;
}

function commonLength(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length += 1;
  return length;
}

/** Lets timers and messages in. */
function turnOfEvents(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function checkScoreRequest(limits: BatchDecoder, request: ScoreRequest, index: number): void {
  const { ids, start } = request;
  if (!Number.isSafeInteger(start) || start < 1 || start > ids.length) {
    throw new CodedError("invalid_request", `request ${index}: start is ${start}; wanted 1 to ${ids.length}`);
  }
  if (ids.length > limits.maxLength + 1) {
    const most = limits.maxLength + 1;
    throw new CodedError("invalid_request", `request ${index} has ${ids.length} tokens; at most ${most} can be scored`);
  }
  checkIds(ids, limits.vocabSize);
}
