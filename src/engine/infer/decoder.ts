/**
 * The narrow seam between the model and what is done with it: token ids go in, rows of logits come out, and a
 * key/value cache lies between. Generation and scoring are written against `Decoder` and never see a tensor, so they
 * are the same for every backend and can be tested with a table instead of a model. Nothing here knows text.
 *
 * Below it is `BatchDecoder`, which makes one step for several sequences; `batcher.ts` lies between the two.
 */

import type { LogitRow } from "./logitRow.ts";

/** One growing context with its cache. */
export interface Sequence {
  /** Positions in the cache. */
  readonly length: number;
  /**
   * Computes `ids` after everything appended so far.
   * @param rows how many of the last ids to return logits for, 0 to ids.length
   * @returns row i predicts what follows id i of the last `rows`; they may change when the caller next awaits
   *   something: the model may write the rows of its next step there
   * @throws cancelled when the signal of `start` has aborted
   */
  append(ids: readonly number[], rows: number): Promise<readonly LogitRow[]>;
  /** Forgets every position from `length` on. */
  truncate(length: number): void;
  /** Gives the cache back; the sequence is dead afterwards. Calling it twice is harmless. */
  close(): void;
}

export interface Decoder {
  /** Longest context in tokens. */
  readonly maxLength: number;
  readonly vocabSize: number;
  /**
   * @param capacity positions the cache must hold, at most maxLength
   * @param signal aborting it ends an `append` that waits
   */
  start(capacity: number, signal?: AbortSignal): Sequence;
}

/** A context as `BatchDecoder` holds it. */
export type Context = Omit<Sequence, "append">;

/** What one context does in a step: `ids` are computed, logits are wanted for the last `rows` of them. */
export interface StepPart {
  readonly context: Context;
  readonly ids: readonly number[];
  readonly rows: number;
}

export interface BatchDecoder {
  readonly maxLength: number;
  readonly vocabSize: number;
  start(capacity: number): Context;
  /**
   * Computes all parts together; their contexts differ. A row of logits must not depend on which other parts there are.
   * @returns the rows of all parts one after another; the next step may write over them
   */
  step(parts: readonly StepPart[]): Promise<readonly LogitRow[]>;
}

/** Ids computed in one step, at most. */
export const maxStepTokens = 256;

/** Logits read back in one step, at most, in values (16 MiB): a bound on memory that [T, V] would not give. */
export const maxStepLogits = 4 * 1024 * 1024;

/** @returns how many ids to compute in one step when each needs a row of logits. */
export function stepTokensWithLogits(vocabSize: number): number {
  return Math.max(1, Math.min(maxStepTokens, Math.floor(maxStepLogits / vocabSize)));
}

/** Cuts `ids` into steps of at most `size`, with the index at which each starts. */
export function* steps(ids: readonly number[], size: number): Generator<{ start: number; part: readonly number[] }> {
  for (let start = 0; start < ids.length; start += size) yield { start, part: ids.slice(start, start + size) };
}
