/**
 * Writes tensors as one new blob that is a safetensors file: random initialisation, tensors made by growth,
 * weights and moments saved by training. Bytes are asked for one tensor at a time, in file order, hashed
 * and written; so memory is one tensor, whatever the model's size.
 */
import { createHash } from "node:crypto";
import { encodeFromF32 } from "../../ops/dtype.ts";
import { CodedError, invariant } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { TensorInfo, TensorRef } from "../../ops/tensor.ts";
import { createBlobWriter, type BlobWriter } from "./blobs.ts";
import { formatHeader, type SafetensorsEntry } from "./safetensors.ts";

/** Metadata that transformers asks for. */
export const torchMetadata = { format: "pt" } as const;

/** A tensor to write; `data` is called once, when its turn comes, and may compute then. */
export interface TensorToWrite {
  readonly info: TensorInfo;
  /** Values (encoded to the tensor's element type here) or its little-endian bytes. */
  data(): Float32Array | Uint8Array | Promise<Float32Array | Uint8Array>;
}

export interface WriteOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

export interface WrittenTensors {
  /** In the order in which they were given. */
  readonly tensors: readonly TensorRef[];
  readonly blob: NewBlob;
}

/**
 * Writes at least one tensor as one blob.
 * @throws storage_full, cancelled by `signal`; then nothing is visible in the blob directory
 */
export async function writeTensors(
  blobDir: string,
  tensors: readonly TensorToWrite[],
  options: WriteOptions = {},
): Promise<WrittenTensors> {
  invariant(tensors.length > 0, "a blob of tensors holds at least one");
  const byName = new Map(tensors.map((tensor) => [tensor.info.name, tensor]));
  invariant(byName.size === tensors.length, "tensor names within a blob are unique");
  const layout = formatHeader(
    tensors.map((tensor) => tensor.info),
    torchMetadata,
  );
  const writer = await createBlobWriter(blobDir);
  try {
    await writer.write(layout.bytes);
    const digests = new Map<string, string>();
    for (const entry of layout.tensors) {
      options.signal?.throwIfAborted();
      digests.set(entry.name, await writeOne(writer, byName.get(entry.name) as TensorToWrite, entry));
      options.onProgress?.(writer.sizeBytes, layout.fileBytes);
    }
    invariant(writer.sizeBytes === layout.fileBytes, "the blob has the length its header says");
    const blob = await writer.finish();
    const places = new Map(layout.tensors.map((entry) => [entry.name, entry]));
    return { blob, tensors: tensors.map(({ info }) => reference(info, blob, places, digests)) };
  } finally {
    await writer.abort();
  }
}

async function writeOne(writer: BlobWriter, tensor: TensorToWrite, entry: SafetensorsEntry): Promise<string> {
  const data = await tensor.data();
  const bytes = data instanceof Float32Array ? encodeFromF32(data, tensor.info.dtype) : data;
  if (bytes.length !== entry.sizeBytes) {
    throw new CodedError("internal", `tensor ${entry.name}: ${bytes.length} bytes to write, ${entry.sizeBytes} wanted`);
  }
  const writing = writer.write(bytes);
  const digest = createHash("sha256").update(bytes).digest("hex"); // while the system writes
  await writing;
  return digest;
}

function reference(
  info: TensorInfo,
  blob: NewBlob,
  places: ReadonlyMap<string, SafetensorsEntry>,
  digests: ReadonlyMap<string, string>,
): TensorRef {
  const place = places.get(info.name) as SafetensorsEntry;
  const { name, dtype, shape } = info;
  const sha256 = digests.get(name) as string;
  return { name, dtype, shape, blob: blob.digest, offset: place.offset, sizeBytes: place.sizeBytes, sha256 };
}
