/**
 * What was computed of prompts, kept and shared: a sequence whose prompt begins as another's tokens do takes the keys
 * and values of that beginning from it (`Sequence.fork`) and computes the rest. The other may be at work still, or have
 * ended and been kept; where it is just reading what both begin with, the new one waits for it, so that the choices of
 * one prompt read it once. Token ids alone decide, and a row does not depend on which others were computed with it: a
 * request gets the bits that it would get from an empty cache.
 *
 * Positions of those at work (what they may come to) and of those kept stay within one budget together; the kept one
 * used longest ago goes first, and those at work are never refused here: who may be at work is decided by the pool.
 */
import { isOutOfMemory } from "./batcher.ts";
import type { Decoder, ForkableSequence, Prompt, PromptDecoder, Sequence } from "./decoder.ts";
import { throwIfCancelled } from "./generate.ts";

/** Beginnings shorter than this are computed again. */
export const leastShared = 16;
/** Sequences kept, at most. */
const mostKept = 256;
/** Caches take memory in steps of so many positions. */
const positionStep = 64;

interface Entry {
  readonly sequence: ForkableSequence;
  /** Ids whose keys and values it holds. */
  readonly ids: number[];
  /** Ids that it is about to hold: its prompt. */
  reading: readonly number[];
  /** Of the budget. */
  positions: number;
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

export class SharedPrompts implements PromptDecoder {
  readonly maxLength: number;
  readonly vocabSize: number;
  readonly #decoder: Decoder;
  readonly #positions: number;
  /** Those kept in the order of their last use. */
  readonly #entries = new Set<Entry>();

  /** @param positions the budget; with 0 nothing is kept after its request, but those at work still share */
  constructor(decoder: Decoder, positions: number) {
    this.maxLength = decoder.maxLength;
    this.vocabSize = decoder.vocabSize;
    this.#decoder = decoder;
    this.#positions = positions;
  }

  async open(prompt: Prompt, signal: AbortSignal): Promise<Sequence> {
    const { ids, capacity, isScored } = prompt;
    let held = isScored ? null : this.#longest(ids);
    while (!isScored) {
      const coming = this.#coming(ids, held?.length ?? 0);
      if (coming === null) break;
      await progressOf(coming, signal);
      throwIfCancelled(signal);
      held = this.#longest(ids);
    }
    const sequence = this.#begin(prompt, held, signal);
    const entry: Entry = {
      ...{ sequence, ids: ids.slice(0, sequence.length), reading: ids },
      ...{ positions: inSteps(capacity), isKept: false, waiters: new Set<() => void>() },
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
  #begin({ ids, capacity }: Prompt, longest: Held | null, signal: AbortSignal): ForkableSequence {
    for (let held = longest; ; held = held && this.#longest(ids)) {
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
    Object.assign(entry, { positions: inSteps(sequence.room), isKept: true, reading: [] });
    this.#entries.add(entry);
    this.#shrink();
  }

  /** Gives up what was kept beyond the budget. */
  #shrink(): void {
    for (;;) {
      let [positions, kept] = [0, 0];
      for (const entry of this.#entries) {
        positions += entry.positions;
        if (entry.isKept) kept++;
      }
      if (positions <= this.#positions && kept <= mostKept) return;
      if (!this.relieve()) return;
    }
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

function inSteps(positions: number): number {
  return Math.ceil(positions / positionStep) * positionStep;
}
