/**
 * The tokens at which a model ends its text: those of config.json, those of generation_config.json (an instruction
 * model ends its turns by another token than its documents), and the tokenizer's end of sequence.
 */
import { readFile } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";

/** A real one has less than a kilobyte. */
const maxConfigBytes = 64 * 1024;
const maxKept = 256;

export interface StopTokens {
  /**
   * @param ends the tokenizer's end of sequence, or null
   * @throws checkpoint_missing_file, checkpoint_corrupt
   */
  of(checkpoint: ResolvedCheckpoint, ends: number | null): Promise<readonly number[]>;
}

/** @returns stop tokens, remembered by the blob that tells them. */
export function createStopTokens(): StopTokens {
  const kept = new Map<string, Promise<readonly number[]>>();

  function generationStops({ manifest, blobs }: ResolvedCheckpoint): Promise<readonly number[]> {
    const file = manifest.files.find(({ name }) => name === "generation_config.json");
    const location = file && Object.hasOwn(blobs, file.blob) ? blobs[file.blob] : undefined;
    if (!file || !location || file.sizeBytes > maxConfigBytes) return Promise.resolve([]);
    const reading = kept.get(file.blob) ?? readStops(location.path);
    kept.set(file.blob, reading);
    reading.catch(() => kept.delete(file.blob));
    for (const oldest of kept.keys()) {
      if (kept.size <= maxKept) break;
      kept.delete(oldest);
    }
    return reading;
  }

  return {
    async of(checkpoint, ends) {
      const { vocabSize, eosTokenIds } = checkpoint.manifest.config;
      const all = [...eosTokenIds, ...(await generationStops(checkpoint)), ...(ends === null ? [] : [ends])];
      return [...new Set(all)].filter((id) => Number.isSafeInteger(id) && id >= 0 && id < vocabSize);
    },
  };
}

/** @throws checkpoint_missing_file, checkpoint_corrupt */
async function readStops(path: string): Promise<readonly number[]> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new CodedError("checkpoint_missing_file", "generation_config.json: its file cannot be read", { cause });
  });
  const given = parseConfig(text)["eos_token_id"];
  return (Array.isArray(given) ? given : [given]).filter((id): id is number => typeof id === "number");
}

function parseConfig(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch (cause) {
    throw new CodedError("checkpoint_corrupt", "generation_config.json: it is not JSON", { cause });
  }
  throw new CodedError("checkpoint_corrupt", "generation_config.json: it is not a JSON object");
}
