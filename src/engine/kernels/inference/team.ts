/**
 * Threads that compute one thing together. All of them run the same program on the same inputs; a piece of work that
 * can be split is an `each`, whose parts they take in turn, whoever is free the next, and which none of them leaves
 * before all parts are done. So a thread that the system does not run delays nothing but the part it holds, and one
 * that comes late passes over what is done already.
 *
 * Who computes a part must not show in the result: a part writes what no other part of that `each` writes.
 *
 * The state is one word, the number of the `each` and of its next part, so that a part is taken by one
 * compare-and-exchange and never from an `each` that is over. Programs are counted by the word `program`, odd while
 * the first thread writes the inputs (a sequence lock).
 */
import { CodedError } from "../../../ops/errors.ts";

/** Words (int32) of the control block. */
export const controlWords = 16;
const [state, done, program, failed, asleep] = [0, 1, 2, 3, 4] as const;

/** Parts of one `each`, at most. */
export const mostParts = 1000;
const partBits = 10;
const partMask = (1 << partBits) - 1;

/** Looks at the state before a thread lets the system run another. */
const spins = 4000;
/** Then it looks again after so long at the latest. */
const napMs = 1;
/** A part that takes so long is given up. */
const stuckMs = 120_000;

export class TeamMember {
  readonly #control: Int32Array;
  readonly #alone: boolean;
  #phase = 0;
  /** What went wrong in a part that this thread took. */
  #error: unknown = null;

  /** @param control words of shared memory, zero at first */
  constructor(control: Int32Array, threads: number) {
    this.#control = control;
    this.#alone = threads === 1;
  }

  /**
   * Has `work` done for 0 .. parts - 1, together with the other threads.
   * @throws internal when a part does not end
   */
  each(parts: number, work: (part: number) => void): void {
    if (parts === 0) return;
    if (this.#alone) {
      for (let part = 0; part < parts; part++) work(part);
      return;
    }
    const control = this.#control;
    const phase = this.#phase;
    const next = ((phase + 1) << partBits) >> partBits;
    this.#phase = next;
    for (let looks = 0; ;) {
      const seen = Atomics.load(control, state);
      if (seen >> partBits !== phase) return;
      const part = seen & partMask;
      if (part >= parts) {
        if (++looks > spins) this.#nap(seen, looks);
      } else if (Atomics.compareExchange(control, state, seen, seen + 1) === seen) {
        this.#guarded(work, part);
        if (Atomics.add(control, done, 1) + 1 < parts) continue;
        Atomics.store(control, done, 0);
        Atomics.store(control, state, next << partBits);
        if (Atomics.load(control, asleep) > 0) Atomics.notify(control, state);
        return;
      }
    }
  }

  /**
   * For the first thread: publishes the inputs of a program and runs it.
   * @param write writes the inputs, with the number at which the program's work begins
   * @throws what a part threw here; internal when one failed in another thread
   */
  lead(write: (firstPhase: number) => void, run: () => void): void {
    const control = this.#control;
    Atomics.add(control, program, 1);
    write(this.#phase);
    Atomics.add(control, program, 1);
    if (!this.#alone) Atomics.notify(control, program);
    run();
    const error = this.#error;
    this.#error = null;
    const others = Atomics.exchange(control, failed, 0);
    if (error !== null) throw error;
    if (others !== 0) throw new CodedError("internal", "a thread of the model failed in its part of a step");
  }

  /** For the others: runs every program that there is from now on; ends only with its thread. */
  follow<Input>(read: () => Input, firstPhase: (input: Input) => number, run: (input: Input) => void): never {
    const control = this.#control;
    let last = 0;
    for (;;) {
      const number = this.#newProgram(last);
      const input = read();
      if (Atomics.load(control, program) !== number) continue;
      last = number;
      this.#phase = firstPhase(input);
      run(input);
    }
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

  #guarded(work: (part: number) => void, part: number): void {
    try {
      work(part);
    } catch (error) {
      // The part counts as done, or all would wait for it.
      this.#error = error;
      Atomics.store(this.#control, failed, 1);
    }
  }

  #nap(seen: number, looks: number): void {
    Atomics.add(this.#control, asleep, 1);
    Atomics.wait(this.#control, state, seen, napMs);
    Atomics.sub(this.#control, asleep, 1);
    if ((looks - spins) * napMs > stuckMs) throw new CodedError("internal", `a part of a step took ${stuckMs} ms`);
  }
}
