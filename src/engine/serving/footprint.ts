/**
 * How much memory serving a checkpoint will take, told before it is loaded: the weights, the key/value
 * caches of the requests that may run together, and the process itself. Caches have a budget of positions: a request
 * takes those of its prompt and of what it may generate, so that many short requests or a few long ones fit.
 */
import type { CheckpointManifest } from "../../ops/manifest.ts";
import { weightBytes } from "../infer/servingMemory.ts";

/** Node with tfjs and its kernels, before any weight. */
const processBytes = 192 * 1024 * 1024;
/** A cache grows in steps of this many positions (`model/kvCache.ts`). */
const positionStep = 64;

export interface Footprint {
  /** Of the process with everything in it. */
  readonly bytes: number;
  /** Positions that the caches of all its requests may hold together. */
  readonly positions: number;
}

export interface FootprintLimits {
  /** Requests at once. */
  readonly maxActive: number;
  /** Caches of one model together; one request of full length always has room. */
  readonly maxCacheBytes: number;
  /** All models together. */
  readonly maxMemoryBytes: number;
}

/** @param keepsHalf whether the backend that will serve it keeps weights of bfloat16 in 16 bits */
export function estimateFootprint(
  manifest: CheckpointManifest,
  limits: FootprintLimits,
  keepsHalf: boolean,
): Footprint {
  const { config } = manifest;
  const weights = weightBytes(manifest, keepsHalf);
  const perPosition = 2 * 4 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim;
  const longest = roundUp(config.maxPositionEmbeddings);
  const left = limits.maxMemoryBytes - processBytes - weights;
  const affordable = Math.floor(Math.min(limits.maxCacheBytes, left) / perPosition);
  const positions = Math.max(longest, Math.min(limits.maxActive * longest, affordable));
  return { bytes: processBytes + weights + positions * perPosition, positions };
}

/** @returns positions that a request takes from the model's budget. */
export function positionsOf(promptTokens: number, maxTokens: number, maxLength: number): number {
  return roundUp(Math.min(maxLength, promptTokens + maxTokens));
}

function roundUp(positions: number): number {
  return Math.ceil(positions / positionStep) * positionStep;
}
