/**
 * How much memory serving a checkpoint will take, told before it is loaded: weights as float32, the key/value
 * caches of the requests that may run together, and the process itself.
 */
import type { CheckpointManifest } from "../../ops/manifest.ts";

/** Node with tfjs and its kernels, before any weight. */
const processBytes = 192 * 1024 * 1024;

/** @returns bytes; `sequences` requests of full length at once */
export function estimateFootprint(manifest: CheckpointManifest, sequences: number): number {
  const { config } = manifest;
  const weights = manifest.tensors.reduce((sum, { shape }) => sum + 4 * shape.reduce((n, extent) => n * extent, 1), 0);
  const perPosition = 2 * 4 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim;
  return processBytes + weights + sequences * config.maxPositionEmbeddings * perPosition;
}
