/**
 * Positions of key/value caches, as the pool reserves them and a model process holds them: in which steps memory is
 * taken, what a request may come to, and what requests with one prompt hold together. Where contexts are lists of
 * pages, those that were forked at the prompt's last token have its whole pages before that token in common, and no
 * one ever writes to them: what is written lies at that token or after it. The page with that token counts for each,
 * since whoever writes to it while others hold it gets a copy.
 */
import type { GenerateRequest } from "./servedModel.ts";

/** Caches take memory in steps of so many positions: a page of `kernels/inference`, a step of `model/kvCache.ts`. */
export const positionStep = 64;

/** What one request may come to. */
export interface Reservation {
  /** In whole steps. */
  readonly positions: number;
  /** Those with the same, by identity, hold `shared` of their positions in common; null for one that shares nothing. */
  readonly prompt: unknown;
  readonly shared: number;
}

/** @returns positions that are computed for a request, its last token's never; 0 for one that wants nothing. */
export function positionsWanted(request: GenerateRequest, maxLength: number): number {
  const { promptIds, maxTokens } = request;
  if (maxTokens === 0 && !isScored(request)) return 0;
  return Math.min(maxLength, promptIds.length + Math.max(0, maxTokens - 1));
}

/** Whether the prompt's own log-probabilities are wanted. Then it is computed from its first token. */
export function isScored({ echo, logprobs }: Pick<GenerateRequest, "echo" | "logprobs">): boolean {
  return echo && logprobs !== null;
}

/** @returns positions in whole pages before the last token of a prompt. */
export function positionsShared(promptTokens: number): number {
  return Math.floor((promptTokens - 1) / positionStep) * positionStep;
}

export function inSteps(positions: number): number {
  return Math.ceil(positions / positionStep) * positionStep;
}

/** @returns what all of them may come to, what some have in common counted once. */
export function positionsHeld(reservations: Iterable<Reservation>): number {
  const counted = new Set<unknown>();
  let sum = 0;
  for (const { positions, prompt, shared } of reservations) {
    sum += positions;
    if (counted.has(prompt)) sum -= shared;
    else if (prompt !== null) counted.add(prompt);
  }
  return sum;
}
