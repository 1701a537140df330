/**
 * Threads that compute one thing together. All of them run the same program on the same inputs; a piece of work that
 * can be split is an `each`, which none of them leaves before all its parts are done. The parts are dealt out in
 * stretches, one to each thread, because memory that is read in one stretch is read faster; who is through with its own
 * takes from the ends of the others'. So a thread that the system does not run delays nothing but the part it holds,
 * and one that comes late passes over what is done already.
 *
 * Who computes a part must not show in the result: a part writes what no other part of that `each` writes.
 *
 * Every `each` has a number, one more than the last. A part is claimed by writing that number over an older one, in one
 * compare-and-exchange, so that nobody takes a part of an `each` that is over: all its parts have its number or a newer
 * one. Programs are counted by the word `program`, odd while the first thread writes the inputs (a sequence lock).
 */
import { CodedError, invariant } from "../../../ops/errors.ts";

/** Parts of one `each`, at most. */
export const mostParts = 1000;
/** Words of the control block: the number of the last `each` that is over, its parts that are done, and so on. */
const [over, done, program, failed, asleep] = [0, 1, 2, 3, 4] as const;
/** Behind them, on cache lines of their own, who claimed each part last. */
const claims = 16;
/** Words (int32) of the control block, which are zero at first. */
export const controlWords = claims + mostParts;

/** After so many, the claims of parts that no `each` has had are brought up to date: numbers wrap around. */
const renewAfter = 1 << 24;
/** Looks at a word before a thread lets the system run another. */
const spins = 4000;
/** Then it looks again after so long at the latest. */
const napMs = 1;
/** A part that takes so long is given up. */
const stuckMs = 120_000;

/** How what another thread threw reaches the first; `infer/teamErrors.ts` has both ends. */
export interface TeamErrors {
  /** For the others; it has arrived when this returns. */
  tell?(error: unknown): void;
  /** For the first. @returns what arrived since it was last asked, the first of it, or null */
  told?(): Error | null;
}

export class TeamMember {
  readonly #control: Int32Array;
  readonly #threads: number;
  readonly #thread: number;
  readonly #errors: TeamErrors;
  /** Number of the last `each` that this thread was in. */
  #phase: number;
  #renewed: number;
  /** What went wrong in a part that the first thread took. */
  #error: unknown = null;
  /** What ended a program of the first thread before its end; null for nothing. */
  #left: unknown = null;
  /** Whether the first thread does the program at work alone. */
  #isAlone = false;

  /**
   * @param control words of shared memory, zero at first
   * @param thread which of the threads this is, from 0; one that joins later begins with the next program
   */
  constructor(control: Int32Array, threads: number, thread: number, errors: TeamErrors = {}) {
    this.#control = control;
    this.#threads = threads;
    this.#thread = thread;
    this.#errors = errors;
    this.#phase = this.#renewed = Atomics.load(control, over);
  }

  /**
   * Has `work` done for 0 .. parts - 1, together with the other threads.
   * @throws internal when a part does not end
   */
  each(parts: number, work: (part: number) => void): void {
    if (parts === 0) return;
    invariant(parts <= mostParts, `${parts} parts of one piece of work; at most ${mostParts}`);
    const threads = this.#threads;
    if (this.#isAlone) {
      for (let part = 0; part < parts; part++) work(part);
      return;
    }
    this.#phase = (this.#phase + 1) | 0;
    if (this.#isOver()) return;
    const firstOf = (thread: number): number => Math.floor((thread * parts) / threads);
    for (let part = firstOf(this.#thread), end = firstOf(this.#thread + 1); part < end; part++) {
      this.#take(part, parts, work);
    }
    for (let step = 1; step < threads; step++) {
      const other = (this.#thread + step) % threads;
      for (let part = firstOf(other + 1) - 1, first = firstOf(other); part >= first; part--) {
        this.#take(part, parts, work);
      }
    }
    for (let looks = 0; !this.#isOver(); looks++) if (looks > spins) this.#nap(looks);
  }

  /** Does a part if nobody has. */
  #take(part: number, parts: number, work: (part: number) => void): void {
    const control = this.#control;
    const phase = this.#phase;
    const last = Atomics.load(control, claims + part);
    if (((last - phase) | 0) >= 0 || Atomics.compareExchange(control, claims + part, last, phase) !== last) return;
    try {
      work(part);
    } catch (error) {
      // The part counts as done, or all would wait for it.
      if (this.#thread === 0) this.#error ??= error;
      else this.#tell(error);
    }
    if (Atomics.add(control, done, 1) + 1 < parts) return;
    Atomics.store(control, done, 0);
    Atomics.store(control, over, phase);
    if (Atomics.load(control, asleep) > 0) Atomics.notify(control, over);
  }

  #isOver(): boolean {
    return ((Atomics.load(this.#control, over) - this.#phase) | 0) >= 0;
  }

  /**
   * For the first thread: publishes the inputs of a program and runs it.
   * @param write writes the inputs, with the number after which those of the program's work begin
   * @param isAlone does it without the others, who are told nothing of it: a program that takes less time than telling
   * @throws what a part, or what lies between parts, threw here or in another thread, of this program or late in the
   *   one before; internal when the threads are no longer at one place, because a program was left before its end
   */
  lead(write: (firstPhase: number) => void, run: () => void, isAlone = false): void {
    const control = this.#control;
    if (this.#left !== null) {
      throw new CodedError("internal", "the model's threads are out of step since an error", { cause: this.#left });
    }
    this.#isAlone = isAlone || this.#threads === 1;
    if (!this.#isAlone) {
      this.#renewClaims();
      Atomics.add(control, program, 1);
      write(this.#phase);
      Atomics.add(control, program, 1);
      Atomics.notify(control, program);
    }
    try {
      run();
    } catch (error) {
      // The others go on without this one, which no longer knows the numbers of their work.
      if (!this.#isAlone) this.#left = error;
      throw error;
    }
    const error = this.#error;
    this.#error = null;
    const others = Atomics.exchange(control, failed, 0) !== 0 ? this.#errors.told?.() : null;
    if (error !== null) throw error;
    if (others !== null) throw others ?? new CodedError("internal", "another thread of the model failed in a step");
  }

  /**
   * For the others: runs every program that there is from now on; ends only with its thread. What `run` throws between
   * parts is told to the first thread, which does the parts that are left here.
   */
  follow<Input>(read: () => Input, firstPhase: (input: Input) => number, run: (input: Input) => void): never {
    const control = this.#control;
    let last = 0;
    for (;;) {
      const number = this.#newProgram(last);
      const input = read();
      if (Atomics.load(control, program) !== number) continue;
      last = number;
      this.#phase = firstPhase(input);
      try {
        run(input);
      } catch (error) {
        this.#tell(error);
      }
    }
  }

  #tell(error: unknown): void {
    this.#errors.tell?.(error);
    Atomics.store(this.#control, failed, 1);
  }

  /** @returns the number of a program that is not the last one, complete. */
  #newProgram(last: number): number {
    const control = this.#control;
    for (let looks = 0; ; looks++) {
      const number = Atomics.load(control, program);
      if (number !== last && number % 2 === 0) return number;
      if (looks > spins) Atomics.wait(control, program, number);
    }
  }

  /** Between two programs no part is open, and to a thread that is late a newer claim is one like any other. */
  #renewClaims(): void {
    if (((this.#phase - this.#renewed) | 0) < renewAfter) return;
    this.#renewed = this.#phase;
    for (let part = 0; part < mostParts; part++) Atomics.store(this.#control, claims + part, this.#phase);
  }

  #nap(looks: number): void {
    const control = this.#control;
    const seen = Atomics.load(control, over);
    if (((seen - this.#phase) | 0) >= 0) return;
    Atomics.add(control, asleep, 1);
    Atomics.wait(control, over, seen, napMs);
    Atomics.sub(control, asleep, 1);
    if ((looks - spins) * napMs > stuckMs) throw new CodedError("internal", `a part of a step took ${stuckMs} ms`);
  }
}
