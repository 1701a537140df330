/**
 * Whether a step of a model on shared memory is worth several threads. They meet some five times in a layer, which
 * costs the same for any model; what they save grows with the work between two meetings. Measured in docs/serving.md.
 * The bits of a step do not depend on it.
 */
import type { TeamLlama, TeamStep } from "../model/teamLlama.ts";

/** Multiply-adds of a step for each layer, from which two threads are faster than one. */
export const leastShared = 900_000;

type Sized = Pick<TeamLlama, "hiddenSize" | "intermediateSize" | "numHeads" | "numKeyValueHeads" | "headDim"> & {
  readonly layers: ArrayLike<unknown>;
  readonly head: Pick<TeamLlama["head"], "outputs">;
};

/** What of a step decides about its work. */
export type StepSize = Pick<TeamStep, "sequences"> & { readonly wanted: ArrayLike<unknown> };

/** @returns whether all threads should share a step; otherwise the first makes it alone */
export function isWorthSharing(model: Sized, { sequences, wanted }: StepSize): boolean {
  const { hiddenSize, intermediateSize, numHeads, numKeyValueHeads, headDim, layers, head } = model;
  const queries = numHeads * headDim;
  const weights = hiddenSize * (2 * queries + 2 * numKeyValueHeads * headDim + 3 * intermediateSize);
  const ofLayer = sequences.reduce(
    (sum, { rows, offset }) => sum + rows * (weights + 2 * queries * (offset + rows / 2)),
    0,
  );
  return ofLayer + (wanted.length * hiddenSize * head.outputs) / layers.length >= leastShared;
}
