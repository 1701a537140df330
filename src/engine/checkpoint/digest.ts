/**
 * The digest of a checkpoint: one SHA-256 over what it computes, and nothing about how it is stored.
 * Two checkpoints with equal configuration and equal tensor bytes have equal digests, however they were cut
 * into files or blobs.
 */
import { createHash } from "node:crypto";
import type { CheckpointManifest, ResolvedCheckpoint } from "../../ops/manifest.ts";
import { CodedError } from "../../ops/errors.ts";
import { hashRanges, type HashOptions } from "./hashing.ts";
import { locate } from "./tensorReader.ts";

/** Part of what is hashed: should the rule ever change, digests change with it, visibly. */
const scheme = "cambium-checkpoint-1";

/** JSON with sorted keys at every level: one text for one value. */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`).join(",")}}`;
}

type Digested = Pick<CheckpointManifest, "architecture" | "config" | "tensors" | "growthMask">;

/**
 * @returns lowercase hex SHA-256 over architecture, configuration and every (name, dtype, shape, SHA-256), and over
 *   the mask of a model whose new parts are being faded in
 */
export function checkpointDigest(manifest: Digested): string {
  const hash = createHash("sha256");
  hash.update(`${scheme}\n${manifest.architecture}\n${canonicalJson(manifest.config)}\n`);
  const sorted = [...manifest.tensors].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const { name, dtype, shape, sha256 } of sorted) hash.update(`${canonicalJson([name, dtype, shape, sha256])}\n`);
  if (manifest.growthMask) hash.update(`mask ${canonicalJson(manifest.growthMask)}\n`);
  return hash.digest("hex");
}

/**
 * Reads every tensor again and compares it with the manifest.
 * @throws checkpoint_corrupt naming the first tensor that differs; source_changed for a file registered by
 *   reference that is gone, shorter, or was touched
 */
export async function verifyCheckpoint(resolved: ResolvedCheckpoint, options: HashOptions = {}): Promise<void> {
  const { tensors } = resolved.manifest;
  const ranges = tensors.map(({ blob, offset, sizeBytes }) => {
    return { path: locate(resolved.blobs, blob).path, offset, sizeBytes };
  });
  const digests = await hashRanges(ranges, options);
  tensors.forEach((tensor, index) => {
    if (digests[index] === tensor.sha256) return;
    const code = locate(resolved.blobs, tensor.blob).mtimeMs === null ? "checkpoint_corrupt" : "source_changed";
    throw new CodedError(code, `tensor ${tensor.name}: SHA-256 is ${digests[index]}, ${tensor.sha256} wanted`);
  });
}
