/**
 * The inputs of a step as integers in shared memory: the first thread writes them, the others copy and read them.
 * Layout: a head (see `headWords`), the ids, the wanted rows, then three words for each sequence.
 */
import type { TeamLlama, TeamStep } from "../model/teamLlama.ts";
import { placesOf } from "../model/teamLlama.ts";
import { invariant } from "../../ops/errors.ts";

/** Rows of a step, at most. */
export const mostStepRows = 1024;

const headWords = 8;
const sequenceWords = 3;

/** Words that the plan of any step takes. */
export const planWords = headWords + (2 + sequenceWords) * mostStepRows;

/** Where a step writes: for how many rows there is room from `at` on, and where the logits go. */
export interface StepRoom {
  readonly rows: number;
  readonly at: number;
  readonly logitsAt: number;
}

export interface StepPlan extends Omit<TeamStep, "places"> {
  readonly room: StepRoom;
  /** Number of the team's first `each` of this step. */
  readonly firstPhase: number;
  /** The memory has that size at least; a thread may hear of it late. */
  readonly memoryBytes: number;
}

export function writePlan(
  words: Int32Array,
  { ids, wanted, sequences, room, firstPhase, memoryBytes }: StepPlan,
): void {
  const fits = ids.length <= mostStepRows && wanted.length <= mostStepRows && sequences.length <= mostStepRows;
  invariant(fits, `a step of ${ids.length} rows in ${sequences.length} sequences; at most ${mostStepRows}`);
  const counts = [ids.length, wanted.length, sequences.length];
  words.set([...counts, room.rows, room.at, room.logitsAt, firstPhase, Math.ceil(memoryBytes / 65_536)]);
  words.set(ids, headWords);
  words.set(wanted, headWords + ids.length);
  let at = headWords + ids.length + wanted.length;
  for (const { rows, offset, pages } of sequences) {
    words[at++] = rows;
    words[at++] = offset;
    words[at++] = pages;
  }
}

/** @returns the plan in memory of its own; what it says is nonsense if it was being written. */
export function readPlan(words: Int32Array): StepPlan {
  const all = words.slice();
  const limited = (index: number): number => Math.min(Math.max(all[index]!, 0), mostStepRows);
  const [rows, wanted, count] = [limited(0), limited(1), limited(2)];
  let at = headWords + rows + wanted;
  const sequences = Array.from({ length: count }, () => {
    const [own, offset, pages] = [all[at++]!, all[at++]!, all[at++]! >>> 0];
    return { rows: own, offset, pages };
  });
  return {
    ids: all.subarray(headWords, headWords + rows),
    wanted: all.subarray(headWords + rows, headWords + rows + wanted),
    sequences,
    room: { rows: all[3]!, at: all[4]! >>> 0, logitsAt: all[5]! >>> 0 },
    firstPhase: all[6]!,
    memoryBytes: (all[7]! >>> 0) * 65_536,
  };
}

/** @returns the step that a plan describes. */
export function stepOf(model: TeamLlama, { ids, wanted, sequences, room }: StepPlan): TeamStep {
  return { ids, wanted, sequences, places: placesOf(model, room.rows, room.at, room.logitsAt).places };
}
