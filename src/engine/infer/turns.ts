/**
 * Fair turns on one model: steps are made one at a time, first come first served, so requests that generate
 * together advance token by token in rotation and none waits for another's whole text. Between two steps the
 * event loop runs once, so that a cancellation or a new request gets in. A step is whatever is handed to
 * `run`; joining the steps that wait into one batch would be done here and nowhere else.
 */
import type { Decoder, Sequence } from "./decoder.ts";

export interface Turns {
  /** Runs `step` when those asked for before have ended. */
  run<Result>(step: () => Promise<Result>): Promise<Result>;
}

/** @returns a queue of steps; its length is bounded by the number of sequences, each waiting for one step. */
export function createTurns(): Turns {
  let last: Promise<unknown> = Promise.resolve();
  return {
    run(step) {
      const turn = last.then(async () => {
        await new Promise<void>((resolve) => setImmediate(resolve));
        return step();
      });
      // A failed step is its caller's business; the next in the queue goes on.
      last = turn.catch(() => undefined);
      return turn;
    },
  };
}

/** @returns the same decoder, its steps made in fair turns. */
export function takingTurns(decoder: Decoder, turns: Turns): Decoder {
  return {
    maxLength: decoder.maxLength,
    vocabSize: decoder.vocabSize,
    start: (capacity) => turnedSequence(decoder.start(capacity), turns),
  };
}

function turnedSequence(sequence: Sequence, turns: Turns): Sequence {
  return {
    get length() {
      return sequence.length;
    },
    append: (ids, rows) => turns.run(() => sequence.append(ids, rows)),
    truncate: (length) => sequence.truncate(length),
    close: () => sequence.close(),
  };
}
