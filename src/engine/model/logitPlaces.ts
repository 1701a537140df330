/**
 * Where a step writes a wanted row: its logits in whole panels, behind them the largest logit of each block of ids,
 * then the sum of exponentials of each block (`kernels/inference/rowBlocks.ts`). And the last part of a step, in which
 * the threads compute the blocks.
 */
import type { InferenceFunctions } from "../kernels/inference/module.ts";
import type { Rows } from "../kernels/inference/panels.ts";
import { blockIds } from "../kernels/inference/rowBlocks.ts";
import type { TeamMember } from "../kernels/inference/team.ts";
import { mostParts } from "../kernels/inference/team.ts";

const bytesOfDouble = 8;
/** Floats of a panel of any build, and of a cache line. */
const wholeFloats = 16;
/** Blocks of a part, at least: some ten microseconds. */
const leastBlocks = 16;

/** @returns floats from one row to the next. */
export function logitStride(vocabSize: number): number {
  const blocks = Math.ceil((2 * blocksOf(vocabSize) * bytesOfDouble) / 4 / wholeFloats) * wholeFloats;
  return Math.ceil(vocabSize / wholeFloats) * wholeFloats + blocks;
}

/** @returns addresses of the maxima and the sums of the row that lies at `row`. */
export function blocksAt(row: number, vocabSize: number): { maxima: number; sums: number } {
  const maxima = row + Math.ceil(vocabSize / wholeFloats) * wholeFloats * 4;
  return { maxima, sums: maxima + blocksOf(vocabSize) * bytesOfDouble };
}

/** Computes the blocks of `rows` rows, at temperature 1. */
export function computeBlocks(
  member: TeamMember,
  c: InferenceFunctions,
  rows: number,
  vocabSize: number,
  { at, stride }: Rows,
): void {
  const all = blocksOf(vocabSize);
  const size = Math.max(leastBlocks, Math.ceil((all * rows) / mostParts));
  const perRow = Math.ceil(all / size);
  const items = rows * perRow;
  // Rows of few blocks may be more than there are parts.
  const byParts = Math.ceil(items / mostParts);
  const compute = (item: number): void => {
    const row = at + Math.floor(item / perRow) * stride * 4;
    const block = (item % perRow) * size;
    const { maxima, sums } = blocksAt(row, vocabSize);
    const [first, offset] = [block * blockIds, block * bytesOfDouble];
    c.row_blocks(Math.min(vocabSize - first, size * blockIds), 1, row + first * 4, maxima + offset, sums + offset);
  };
  member.each(Math.ceil(items / byParts), (part) => {
    for (let item = part * byParts; item < Math.min(items, (part + 1) * byParts); item++) compute(item);
  });
}

function blocksOf(vocabSize: number): number {
  return Math.ceil(vocabSize / blockIds);
}
