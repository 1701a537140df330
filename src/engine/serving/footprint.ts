/**
 * How much memory serving a checkpoint will take, told before it is loaded: the weights, the key/value
 * caches of the requests that may run together, and the process itself. Caches have a budget of positions: a request
 * takes those of its prompt and of what it may generate, so that many short requests or a few long ones fit; what
 * requests with one prompt share is taken once.
 */
import { createHash } from "node:crypto";
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { dtypeBytes } from "../../ops/dtype.ts";
import type { CheckpointManifest } from "../../ops/manifest.ts";
import type { Reservation } from "../infer/positions.ts";
import { inSteps, isScored, positionsShared, positionsWanted } from "../infer/positions.ts";
import type { GenerateRequest } from "../infer/servedModel.ts";
import { weightBytes } from "../infer/servingMemory.ts";

/** Node with tfjs and its kernels, before any weight. */
const processBytes = 192 * 1024 * 1024;

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
  /** What keys and values are kept as, where the backend can. */
  readonly cacheDtype: CacheDtype;
}

/** @param keepsHalf whether the backend that will serve it keeps in 16 bits what is bfloat16 */
export function estimateFootprint(
  manifest: CheckpointManifest,
  limits: FootprintLimits,
  keepsHalf: boolean,
): Footprint {
  const { config } = manifest;
  const weights = weightBytes(manifest, keepsHalf);
  const numberBytes = dtypeBytes(keepsHalf ? limits.cacheDtype : "F32");
  const perPosition = 2 * numberBytes * config.numHiddenLayers * config.numKeyValueHeads * config.headDim;
  const longest = inSteps(config.maxPositionEmbeddings);
  const left = limits.maxMemoryBytes - processBytes - weights;
  const affordable = Math.floor(Math.min(limits.maxCacheBytes, left) / perPosition);
  const positions = Math.max(longest, Math.min(limits.maxActive * longest, affordable));
  return { bytes: processBytes + weights + positions * perPosition, positions };
}

/** @returns what a request takes from the model's budget. */
export function reservationOf(request: GenerateRequest, maxLength: number): Reservation {
  const { promptIds } = request;
  const positions = inSteps(positionsWanted(request, maxLength));
  const shared = isScored(request) || positions === 0 ? 0 : positionsShared(Math.min(promptIds.length, maxLength));
  return { positions, shared, prompt: shared > 0 ? nameOf(promptIds) : null };
}

/** @returns a short string that no two prompts share. */
function nameOf(promptIds: readonly number[]): string {
  return createHash("sha256").update(Uint32Array.from(promptIds)).digest("base64");
}
