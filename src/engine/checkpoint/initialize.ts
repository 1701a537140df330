/**
 * Writes the weights of a new, random model: every tensor of the architecture's table, drawn from its own
 * seeded stream, one at a time, as float32. The rule of initialisation is in ops; the same configuration and
 * seed give the same bytes on every machine, hence the same blob.
 */
import { formatLlamaConfig, initializeTensor, llama } from "../../ops/architectures/index.ts";
import type { CheckpointManifest, FileRef, JsonObject } from "../../ops/manifest.ts";
import { checkpointDigest } from "./digest.ts";
import type { ImportResult } from "./importers.ts";
import { writeTensors, type WriteOptions } from "./writer.ts";

/** What to make; the plain part of the backends' `InitializeWork`. */
export interface RandomCheckpoint {
  /** In the shape of `config.json`. */
  readonly configJson: JsonObject;
  /** An integer in [0, 2^53). */
  readonly seed: number;
  readonly blobDir: string;
  /** Companions to carry, such as another checkpoint's tokenizer; their blobs are in the store. */
  readonly files?: readonly FileRef[];
}

/**
 * Makes a random checkpoint.
 * @throws checkpoint_corrupt or checkpoint_unsupported for its configuration, storage_full; cancelled by `signal`
 */
export async function initializeRandom(work: RandomCheckpoint, options: WriteOptions = {}): Promise<ImportResult> {
  const config = llama.parseConfig(work.configJson);
  const configJson = formatLlamaConfig(config, work.configJson);
  const toWrite = llama.expectedTensors(config, "F32").map((info) => {
    return { info, data: () => initializeTensor(config, info.name, work.seed) };
  });
  const { tensors, blob } = await writeTensors(work.blobDir, toWrite, options);
  const manifest: CheckpointManifest = {
    architecture: "llama",
    config,
    configJson,
    tensors,
    files: work.files ?? [],
    original: null,
    optimizer: null,
  };
  return { manifest, digest: checkpointDigest(manifest), blobs: [{ ...blob, external: null }] };
}
