/**
 * The narrow seam between the model and what is done with it: token ids go in, rows of logits come out, and a
 * key/value cache lies between. What is written against it never sees a tensor, so it is the same for every backend and
 * can be tested with a table instead of a model. Nothing here knows text.
 *
 * From below: `BatchDecoder` makes one step for several contexts; `batcher.ts` makes a `Decoder` of it, whose sequences
 * ask one by one; `prompts.ts` makes a `PromptDecoder` of that, whose sequences share beginnings, for generation.
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
   * @throws cancelled when the signal of its start has aborted
   */
  append(ids: readonly number[], rows: number): Promise<readonly LogitRow[]>;
  /** Gives the cache back; the sequence is dead afterwards. Calling it twice is harmless. */
  close(): void;
}

/** What generation needs: sequences that may begin with what was computed of their prompt before. */
export interface PromptDecoder {
  /** Longest context in tokens. */
  readonly maxLength: number;
  readonly vocabSize: number;
  /**
   * @param signal aborting it ends the wait for the sequence, and an `append` that waits
   * @returns a sequence that holds as much of the prompt's beginning as is known, its last token never
   * @throws cancelled
   */
  open(prompt: Prompt, signal: AbortSignal): Promise<Sequence>;
}

export interface Prompt {
  /** What will be appended first, 1 to maxLength. */
  readonly ids: readonly number[];
  /** Positions that the cache must hold, at most maxLength. */
  readonly capacity: number;
  /** Whether logits of all of it are wanted: then it is computed from its first token. */
  readonly isScored: boolean;
}

/** A sequence whose beginning others can share. */
export interface ForkableSequence extends Sequence {
  /** Positions that the cache has memory for. */
  readonly room: number;
  /** Forgets every position from `length` on. */
  truncate(length: number): void;
  /**
   * @param length positions of this one with which the new one begins; they are not computed again, and from then on
   *   neither of the two sees what the other does
   * @param capacity positions that the new one's cache must hold
   * @param signal aborting it ends an `append` of the new one that waits
   */
  fork(length: number, capacity: number, signal: AbortSignal): ForkableSequence;
}

export interface Decoder {
  readonly maxLength: number;
  readonly vocabSize: number;
  /**
   * @param capacity positions the cache must hold, at most maxLength
   * @param signal aborting it ends an `append` that waits
   */
  start(capacity: number, signal?: AbortSignal): ForkableSequence;
}

/** A context as `BatchDecoder` holds it. */
export interface Context extends Omit<ForkableSequence, "append" | "fork"> {
  /** As a sequence's. */
  fork(length: number, capacity: number): Context;
}

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
