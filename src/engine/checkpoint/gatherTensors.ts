/** Tensors whose rows lie scattered over a file, written in one piece each: one new blob for all of them. */
import { CodedError } from "../../ops/errors.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import { openBlob } from "./blobReader.ts";
import { placed, type ImportedBlob, type PlacedFile } from "./place.ts";
import type { ByteSpan, OpenedTensor } from "./reader.ts";
import { writeTensors, type TensorToWrite } from "./writer.ts";

/** A tensor and the pieces of its file that make it up. */
export type ScatteredTensor = OpenedTensor & { readonly pieces: readonly ByteSpan[] };

export interface GatherOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the bytes of each tensor that was read. */
  readonly onBytes: (bytes: number) => void;
}

/**
 * Memory is one tensor.
 * @param tensors at least one
 * @param files where the weight files lie by now, by name
 * @throws source_changed, storage_full, cancelled by the signal; then nothing is visible in the blob directory
 */
export async function gatherTensors(
  blobDir: string,
  tensors: readonly ScatteredTensor[],
  files: ReadonlyMap<string, PlacedFile>,
  { signal, onBytes }: GatherOptions,
): Promise<{ readonly tensors: readonly TensorRef[]; readonly blob: ImportedBlob }> {
  const toWrite = tensors.map((tensor): TensorToWrite => {
    const { name, dtype, shape } = tensor;
    return {
      info: { name, dtype, shape },
      data: async () => {
        const bytes = await gather(tensor, files.get(tensor.file.name));
        onBytes(bytes.length);
        return bytes;
      },
    };
  });
  const written = await writeTensors(blobDir, toWrite, { signal });
  return { tensors: written.tensors, blob: placed(blobDir, "", written.blob).blob };
}

async function gather(tensor: ScatteredTensor, file: PlacedFile | undefined): Promise<Uint8Array> {
  if (file === undefined) throw new CodedError("internal", `file ${tensor.file.name} was not placed`);
  const { sizeBytes, external } = file.blob;
  const reader = await openBlob({ path: file.path, sizeBytes, mtimeMs: external?.mtimeMs ?? null });
  try {
    const bytes = new Uint8Array(tensor.sizeBytes);
    let done = 0;
    for (const piece of tensor.pieces) {
      await reader.readInto(bytes.subarray(done, done + piece.sizeBytes), piece.offset);
      done += piece.sizeBytes;
    }
    return bytes;
  } finally {
    await reader.close();
  }
}
