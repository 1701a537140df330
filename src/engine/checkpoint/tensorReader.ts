/**
 * Reads tensors of a resolved manifest: bytes, or float32 values. Blobs are opened once and kept open until
 * `close`, because a model's tensors usually lie in few blobs. One tensor is in memory at a time.
 */
import { decodeToF32 } from "../../ops/dtype.ts";
import { CodedError } from "../../ops/errors.ts";
import type { BlobLocation, ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { TensorRef, TensorValue } from "../../ops/tensor.ts";
import { openBlob, type BlobReader } from "./blobReader.ts";

/** Bytes of one tensor that is read as a whole, at most: what a typed array can hold on every engine. */
const maxTensorBytes = 2 ** 32;

/** @returns where a blob lies. @throws checkpoint_corrupt when the manifest was resolved without it */
export function locate(blobs: Readonly<Record<string, BlobLocation>>, digest: string): BlobLocation {
  const location = Object.hasOwn(blobs, digest) ? blobs[digest] : undefined;
  if (location === undefined) throw new CodedError("checkpoint_corrupt", `blob ${digest} is not in the store`);
  return location;
}

/** Files that one reader keeps open: each tensor of a grown model may lie in a blob of its own. */
const maxOpenFiles = 32;

/** An open file, and how many reads are on it. */
interface OpenFile {
  readonly reader: Promise<BlobReader>;
  reads: number;
}

/** Reads tensors of blobs; keeps the files used last open until it is closed. */
export class TensorReader {
  readonly #blobs: Readonly<Record<string, BlobLocation>>;
  /** In the order of their last use. */
  readonly #open = new Map<string, OpenFile>();

  constructor(blobs: Readonly<Record<string, BlobLocation>>) {
    this.#blobs = blobs;
  }

  /**
   * @returns the tensor's bytes, little-endian, in memory of their own
   * @throws source_changed, checkpoint_corrupt
   */
  async readBytes(tensor: TensorRef): Promise<Uint8Array<ArrayBuffer>> {
    if (tensor.sizeBytes > maxTensorBytes) {
      const problem = `${tensor.sizeBytes} bytes, at most ${maxTensorBytes} are read at once`;
      throw new CodedError("checkpoint_unsupported", `tensor ${tensor.name}: ${problem}`);
    }
    const file = await this.#file(tensor.blob);
    try {
      return await (await file.reader).read(tensor.offset, tensor.sizeBytes);
    } finally {
      file.reads -= 1;
    }
  }

  /** @returns the tensor's values as float32. @throws source_changed, checkpoint_corrupt */
  async read(tensor: TensorRef): Promise<Float32Array> {
    return decodeToF32(await this.readBytes(tensor), tensor.dtype);
  }

  async close(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    await Promise.all(files.map(closeFile));
  }

  /** Counts as a read from here on. */
  async #file(blob: string): Promise<OpenFile> {
    const location = locate(this.#blobs, blob);
    const file = this.#open.get(blob) ?? { reader: openBlob(location), reads: 0 };
    file.reads += 1;
    this.#open.delete(blob);
    this.#open.set(blob, file);
    if (this.#open.size <= maxOpenFiles) return file;
    const [oldest, idle] = [...this.#open].find(([, { reads }]) => reads === 0) ?? [];
    if (oldest === undefined || idle === undefined) return file;
    this.#open.delete(oldest);
    await closeFile(idle);
    return file;
  }
}

/** One that did not open has told so to whoever read. */
async function closeFile({ reader }: OpenFile): Promise<void> {
  const [opened] = await Promise.allSettled([reader]);
  if (opened.status === "fulfilled") await opened.value.close();
}

/** @returns the reference of a tensor by name. @throws not_found */
export function findTensor(resolved: ResolvedCheckpoint, name: string): TensorRef {
  const tensor = resolved.manifest.tensors.find((candidate) => candidate.name === name);
  if (tensor === undefined) throw new CodedError("not_found", `the checkpoint has no tensor ${JSON.stringify(name)}`);
  return tensor;
}

/** Reads one tensor as float32 values. @throws not_found, source_changed, checkpoint_corrupt */
export async function readTensor(resolved: ResolvedCheckpoint, name: string): Promise<Float32Array> {
  const reader = new TensorReader(resolved.blobs);
  try {
    return await reader.read(findTensor(resolved, name));
  } finally {
    await reader.close();
  }
}

/**
 * Reads tensors one after another, in the order given.
 * @param tensors all of the manifest's unless given; moments of an optimizer may be asked for as well
 */
export async function* readTensors(
  blobs: Readonly<Record<string, BlobLocation>>,
  tensors: readonly TensorRef[],
  signal?: AbortSignal,
): AsyncGenerator<TensorValue> {
  const reader = new TensorReader(blobs);
  try {
    for (const info of tensors) {
      signal?.throwIfAborted();
      yield { info, values: await reader.read(info) };
    }
  } finally {
    await reader.close();
  }
}
