/**
 * The text of one choice as it grows: tokens go in, text that will not be taken back comes out. Text that may be
 * the beginning of a stop string is held back until it is known not to be; at a stop string the text ends before
 * it. Works on text across token boundaries, so a stop string may begin and end anywhere.
 */

export interface TextGate {
  /** @returns what of `text`, and of what was held back, is certain now. */
  push(text: string): string;
  /** @returns what was held back; empty once stopped. */
  end(): string;
  /** Whether a stop string was met: nothing more comes out. */
  readonly stopped: boolean;
  /** Code points given out so far. */
  readonly length: number;
}

/** @param stops texts that end the output; none may be empty */
export function createTextGate(stops: readonly string[]): TextGate {
  let held = "";
  let stopped = false;
  let length = 0;

  function give(text: string): string {
    length += codePoints(text);
    return text;
  }

  return {
    push(text) {
      if (stopped) return "";
      held += text;
      const found = Math.min(...stops.map((stop) => indexOrInfinity(held, stop)));
      stopped = found !== Infinity;
      const certain = stopped ? found : held.length - longestBeginning(held, stops);
      const out = held.slice(0, certain);
      held = stopped ? "" : held.slice(certain);
      return give(out);
    },
    end() {
      const out = held;
      held = "";
      return give(out);
    },
    get stopped() {
      return stopped;
    },
    get length() {
      return length;
    },
  };
}

/** @returns the number of Unicode code points, which is how the completions API counts offsets. */
export function codePoints(text: string): number {
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0xdc00 || unit > 0xdfff) count++;
  }
  return count;
}

function indexOrInfinity(text: string, stop: string): number {
  const index = text.indexOf(stop);
  return index < 0 ? Infinity : index;
}

/** @returns the length of the longest end of `text` that a stop string begins with. */
function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let size = Math.min(stop.length - 1, text.length); size > longest; size--) {
      if (text.endsWith(stop.slice(0, size))) longest = size;
    }
  }
  return longest;
}
