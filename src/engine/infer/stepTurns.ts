/**
 * A `BatchDecoder` for several who do not know of each other: generation and any number of scorings. The rows of a step
 * may be written over by the next one, so whoever made a step has the rest of its turn of the event loop to read them
 * before another begins; whoever makes one step after another with a turn between them, alone, never waits.
 */
import type { BatchDecoder } from "./decoder.ts";

/** @returns a decoder that makes the steps of `decoder` in the order in which they were asked for, each alone */
export function takingTurns(decoder: BatchDecoder): BatchDecoder {
  /** Those who wait; each waits for one step, so there are no more than requests at work. */
  const waiting: (() => void)[] = [];
  let isTaken = false;

  const pass = (): void => {
    const next = waiting.shift();
    if (next) next();
    else isTaken = false;
  };

  return {
    maxLength: decoder.maxLength,
    vocabSize: decoder.vocabSize,
    start: (capacity) => decoder.start(capacity),
    async step(parts) {
      if (isTaken) await new Promise<void>((resolve) => waiting.push(resolve));
      isTaken = true;
      try {
        return await decoder.step(parts);
      } finally {
        setImmediate(pass);
      }
    },
  };
}
