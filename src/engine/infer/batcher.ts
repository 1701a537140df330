/**
 * Continuous batching (Yu et al. 2022, Orca): what the sequences of one model ask for is joined, step by step, into
 * one pass over the weights. A sequence joins at the next step and leaves when it has what it asked for; nobody waits
 * for a batch to fill or to end.
 *
 * - Sequences that decode, one token each, are in every step: all of them advance together.
 * - A prompt is computed in pieces, small ones (`sharedPromptTokens`) while others decode, so that a long prompt
 *   delays a token of others by the time of one piece and not by its own length. Prompts take turns piece by piece.
 * - Between two steps the event loop turns twice: what was made goes out, new requests and cancellations get in.
 *
 * What a sequence gets does not depend on its company: steps differ only in which rows go together, and the kernels
 * compute each row by itself.
 */
import { CodedError } from "../../ops/errors.ts";
import type { BatchDecoder, Context, Decoder, ForkableSequence, StepPart } from "./decoder.ts";
import type { LogitRow } from "./logitRow.ts";
import { maxStepLogits, maxStepTokens } from "./decoder.ts";

/** One step, for metrics. */
export interface StepStats {
  readonly sequences: number;
  readonly tokens: number;
  readonly seconds: number;
}

/** Tokens of prompts in a step in which others decode. */
export const sharedPromptTokens = 32;

/** What one `append` waits for. */
interface Wish {
  readonly context: Context;
  readonly ids: readonly number[];
  readonly rows: number;
  readonly signal: AbortSignal | undefined;
  /** Rows computed so far, of those wanted: copies, but for those of the last step. */
  computed: readonly LogitRow[];
  /** Ids computed so far. */
  done: number;
  resolve(rows: readonly LogitRow[]): void;
  reject(error: unknown): void;
}

export interface BatchingOptions {
  /** Called after each step. */
  readonly observe?: (step: StepStats) => void;
  /** Asked to give memory back when a step finds none. @returns whether it did; the step is then made again */
  readonly relieve?: () => boolean;
}

/** @returns a decoder whose sequences share the steps of `decoder` */
export function batching(decoder: BatchDecoder, { observe, relieve }: BatchingOptions = {}): Decoder {
  const { maxLength, vocabSize } = decoder;
  /** In order of the last step they were part of; bounded by the number of sequences, each waiting for one. */
  let waiting: Wish[] = [];
  let running = false;

  async function run(): Promise<void> {
    running = true;
    for (;;) {
      await turnOfEvents();
      waiting = withoutCancelled(waiting);
      if (waiting.length === 0) break;
      const chosen = choose(waiting, vocabSize);
      try {
        const startedAt = performance.now();
        const rows = await decoder.step(chosen.map(({ part }) => part));
        const seconds = (performance.now() - startedAt) / 1000;
        observe?.({
          sequences: chosen.length,
          tokens: chosen.reduce((sum, { part }) => sum + part.ids.length, 0),
          seconds,
        });
        waiting = settled(waiting, chosen, rows);
      } catch (error) {
        if (isOutOfMemory(error) && relieve?.() === true) continue;
        waiting = waiting.filter((wish) => !chosen.some((one) => one.wish === wish));
        for (const { wish } of chosen) wish.reject(error);
      }
    }
    running = false;
  }

  function append(context: Context, signal: AbortSignal | undefined, ids: readonly number[], rows: number) {
    return new Promise<readonly LogitRow[]>((resolve, reject) => {
      waiting.push({ context, ids, rows, signal, computed: [], done: 0, resolve, reject });
      if (!running) void run();
    });
  }

  const sequenceOf = (context: Context, signal: AbortSignal | undefined): ForkableSequence => ({
    get length() {
      return context.length;
    },
    get room() {
      return context.room;
    },
    append: (ids, rows) => append(context, signal, ids, rows),
    truncate: (length) => context.truncate(length),
    fork: (length, capacity, forked) => sequenceOf(context.fork(length, capacity), forked),
    close: () => context.close(),
  });

  return { maxLength, vocabSize, start: (capacity, signal) => sequenceOf(decoder.start(capacity), signal) };
}

/** Whether a step, or the start of a sequence, found no memory: nothing of it was computed then. */
export function isOutOfMemory(error: unknown): boolean {
  return error instanceof CodedError && error.code === "out_of_memory";
}

interface Chosen {
  readonly wish: Wish;
  readonly part: StepPart;
}

/** @returns the parts of the next step, at least one. */
function choose(waiting: readonly Wish[], vocabSize: number): Chosen[] {
  const decoding = waiting.filter(isDecoding);
  const prompts = waiting.filter((wish) => !isDecoding(wish));
  let tokens = maxStepTokens;
  let logitRows = Math.max(1, Math.floor(maxStepLogits / vocabSize));
  const chosen: Chosen[] = [];
  const take = (wish: Wish, most: number): number => {
    const left = wish.ids.length - wish.done;
    const unread = Math.max(0, left - wish.rows);
    const size = Math.min(left, most, unread + logitRows);
    if (size <= 0) return 0;
    const rows = Math.max(0, size - unread);
    const ids = wish.ids.slice(wish.done, wish.done + size);
    chosen.push({ wish, part: { context: wish.context, ids, rows } });
    logitRows -= rows;
    return size;
  };
  for (const wish of decoding) tokens -= take(wish, tokens);
  let promptTokens = decoding.length > 0 ? sharedPromptTokens : tokens;
  for (const wish of prompts) promptTokens -= take(wish, promptTokens);
  return chosen;
}

function isDecoding(wish: Wish): boolean {
  return wish.ids.length === 1;
}

/** Hands out the rows of a step. @returns who waits on: those who were not in it first. */
function settled(waiting: readonly Wish[], chosen: readonly Chosen[], rows: readonly LogitRow[]): Wish[] {
  let at = 0;
  const on: Wish[] = [];
  for (const { wish, part } of chosen) {
    const own = rows.slice(at, at + part.rows);
    at += part.rows;
    wish.done += part.ids.length;
    if (wish.done === wish.ids.length) wish.resolve([...wish.computed, ...own]);
    else {
      wish.computed = [...wish.computed, ...own.map((row) => row.copy())];
      on.push(wish);
    }
  }
  const served = new Set(chosen.map(({ wish }) => wish));
  return [...waiting.filter((wish) => !served.has(wish)), ...on];
}

/** Turns away those whose request was given up. */
function withoutCancelled(waiting: readonly Wish[]): Wish[] {
  return waiting.filter((wish) => {
    if (wish.signal?.aborted !== true) return true;
    wish.reject(new CodedError("cancelled", "the request was cancelled"));
    return false;
  });
}

/** Two turns: in the first goes out what the last step made, and in both comes in what has arrived. */
function turnOfEvents(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
}
