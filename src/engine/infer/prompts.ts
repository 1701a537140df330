/**
 * What was computed of prompts, kept and shared: a sequence whose prompt begins as another's tokens do takes the keys
 * and values of that beginning from it (`Sequence.fork`) and computes the rest. The other may be at work still, or have
 * ended and been kept; where it is just reading what both begin with, the new one waits for it, so that the choices of
 * one prompt read it once. Token ids alone decide, and a row does not depend on which others were computed with it: a
 * request gets the bits that it would get from an empty cache.
 *
 * Positions of those at work (what they may come to) and of those kept stay within one budget together; the kept one
 * used longest ago goes first, and those at work are never refused here: who may be at work is decided by the pool. It
 * counts the pages that requests with one prompt share once (`positions.ts`). So that this is true, whoever comes with
 * a prompt that is at work begins with what one of those at work holds of it, all but the last token, and with nothing
 * else that may be there.
 */
import { isOutOfMemory } from "./batcher.ts";
import type { Decoder, ForkableSequence, Prompt, PromptDecoder, Sequence } from "./decoder.ts";
import { throwIfCancelled } from "./generate.ts";
import type { Reservation } from "./positions.ts";
import { inSteps, positionsHeld, positionsShared } from "./positions.ts";

/** Beginnings shorter than this are computed again. */
export const leastShared = 16;
/** Sequences kept, at most. */
const mostKept = 256;

/** What those at work with one prompt have in common. */
interface Common {
  readonly ids: readonly number[];
}

interface Entry extends Reservation {
  readonly sequence: ForkableSequence;
  /** Ids whose keys and values it holds. */
  readonly ids: number[];
  /** Ids that it is about to hold: its prompt. */
  reading: readonly number[];
  /** Of the budget. */
  positions: number;
  prompt: Common | null;
  shared: number;
  /** Whether its request has ended. */
  isKept: boolean;
  /** Called when it holds more, or ends. */
  readonly waiters: Set<() => void>;
}

/** What somebody holds of a prompt. */
interface Held {
  readonly entry: Entry;
  readonly length: number;
}

/** What there is to begin a prompt with. */
interface Beginning {
  readonly held: Held | null;
  /** One that will soon hold more, and is waited for. */
  readonly coming: Entry | null;
  /** Of those at work with the same prompt. */
  readonly common: Common | null;
}

export interface SharedPromptsOptions {
  /** The budget; with 0 nothing is kept after its request, but those at work still share. */
  readonly positions: number;
  /** Whether a fork shares the pages of what it was forked from, instead of copying them. */
  readonly sharesPages: boolean;
}

export class SharedPrompts implements PromptDecoder {
  readonly maxLength: number;
  readonly vocabSize: number;
  readonly #decoder: Decoder;
  readonly #positions: number;
  readonly #sharesPages: boolean;
  /** Those kept in the order of their last use. */
  readonly #entries = new Set<Entry>();

  constructor(decoder: Decoder, { positions, sharesPages }: SharedPromptsOptions) {
    this.maxLength = decoder.maxLength;
    this.vocabSize = decoder.vocabSize;
    this.#decoder = decoder;
    this.#positions = positions;
    this.#sharesPages = sharesPages;
  }

  async open(prompt: Prompt, signal: AbortSignal): Promise<Sequence> {
    const { ids, capacity, isScored } = prompt;
    let beginning = this.#beginningOf(prompt);
    while (beginning.coming !== null) {
      await progressOf(beginning.coming, signal);
      throwIfCancelled(signal);
      beginning = this.#beginningOf(prompt);
    }
    const sequence = this.#begin(prompt, beginning.held, signal);
    const shared = this.#sharesPages && !isScored ? positionsShared(ids.length) : 0;
    const entry: Entry = {
      ...{ sequence, ids: ids.slice(0, sequence.length), reading: ids },
      ...{ positions: inSteps(capacity), shared, prompt: shared > 0 ? (beginning.common ?? { ids }) : null },
      ...{ isKept: false, waiters: new Set<() => void>() },
    };
    this.#entries.add(entry);
    this.#shrink();
    return this.#sequenceOf(entry);
  }

  /** Gives up what was kept and used longest ago. @returns whether there was anything */
  relieve(): boolean {
    for (const entry of this.#entries) {
      if (!entry.isKept) continue;
      this.#entries.delete(entry);
      entry.sequence.close();
      return true;
    }
    return false;
  }

  /** Gives up all that is kept. */
  close(): void {
    while (this.relieve());
  }

  /** @throws out_of_memory */
  #begin(prompt: Prompt, first: Held | null, signal: AbortSignal): ForkableSequence {
    const { capacity } = prompt;
    for (let held = first; ; held = held && this.#beginningOf(prompt).held) {
      try {
        if (held === null) return this.#decoder.start(capacity, signal);
        const fork = held.entry.sequence.fork(held.length, capacity, signal);
        if (held.entry.isKept) this.#touch(held.entry);
        return fork;
      } catch (error) {
        if (!isOutOfMemory(error) || !this.relieve()) throw error;
      }
    }
  }

  #sequenceOf(entry: Entry): Sequence {
    const { sequence } = entry;
    return {
      get length() {
        return sequence.length;
      },
      append: async (ids, rows) => {
        const made = await sequence.append(ids, rows);
        entry.ids.push(...ids);
        wake(entry);
        return made;
      },
      close: () => this.#end(entry),
    };
  }

  /** Keeps what an ended request has computed, where it may be of use. */
  #end(entry: Entry): void {
    if (entry.isKept || !this.#entries.delete(entry)) return;
    const { ids, sequence } = entry;
    wake(entry);
    if (this.#positions === 0 || ids.length < leastShared) return sequence.close();
    for (const other of this.#entries) {
      if (!other.isKept) continue;
      const common = commonLength(other.ids, ids);
      if (common === ids.length) {
        this.#touch(other);
        return sequence.close();
      }
      if (common < other.ids.length) continue;
      this.#entries.delete(other);
      other.sequence.close();
    }
    // A step that was given up may have got further than its ids tell.
    sequence.truncate(ids.length);
    Object.assign(entry, { positions: inSteps(sequence.room), prompt: null, isKept: true, reading: [] });
    this.#entries.add(entry);
    this.#shrink();
  }

  /** Gives up what was kept beyond the budget. */
  #shrink(): void {
    for (;;) {
      let kept = 0;
      for (const { isKept } of this.#entries) if (isKept) kept++;
      if (positionsHeld(this.#entries) <= this.#positions && kept <= mostKept) return;
      if (!this.relieve()) return;
    }
  }

  #beginningOf({ ids, isScored }: Prompt): Beginning {
    if (isScored) return { held: null, coming: null, common: null };
    const alike = this.#alike(ids);
    if (alike !== null) {
      const length = ids.length - 1;
      const isThere = alike.ids.length >= length;
      return {
        held: isThere ? { entry: alike, length } : null,
        coming: isThere ? null : alike,
        common: alike.prompt,
      };
    }
    const held = this.#longest(ids);
    return { held, coming: this.#coming(ids, held?.length ?? 0), common: null };
  }

  /** @returns one that is at work with this very prompt and shares its pages. */
  #alike(ids: readonly number[]): Entry | null {
    for (const entry of this.#entries) {
      const { prompt } = entry;
      if (prompt?.ids.length === ids.length && commonLength(prompt.ids, ids) === ids.length) return entry;
    }
    return null;
  }

  /** @returns who holds most of what the ids begin with, and how much of it. */
  #longest(ids: readonly number[]): Held | null {
    let best: Held | null = null;
    for (const entry of this.#entries) {
      if (entry.ids.length <= (best?.length ?? 0)) continue;
      const length = Math.min(commonLength(entry.ids, ids), ids.length - 1);
      if (length >= leastShared && length > (best?.length ?? 0)) best = { entry, length };
    }
    return best;
  }

  /** @returns one that will soon hold enough more of the beginning than `held` positions to be waited for. */
  #coming(ids: readonly number[], held: number): Entry | null {
    for (const entry of this.#entries) {
      const length = Math.min(commonLength(entry.reading, ids), ids.length - 1);
      if (entry.ids.length < entry.reading.length && length >= held + leastShared) return entry;
    }
    return null;
  }

  #touch(entry: Entry): void {
    this.#entries.delete(entry);
    this.#entries.add(entry);
  }
}

function wake({ waiters }: Entry): void {
  for (const waiter of waiters) waiter();
}

/** Resolves when the entry holds more or ends, or the signal aborts. */
async function progressOf(entry: Entry, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = (): void => resolve();
  entry.waiters.add(end);
  signal.addEventListener("abort", end, { once: true });
  await promise;
  entry.waiters.delete(end);
  signal.removeEventListener("abort", end);
}

function commonLength(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length += 1;
  return length;
}
