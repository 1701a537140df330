/**
 * Makes checkpoints out of files: a directory (by reference or by copy), files of an upload, or files that a
 * download has already put in the store (`hub.ts`). Everything is opened and checked first; only then are
 * bytes copied and hashed. The result is a manifest and the blobs that it needs: writing them to the
 * database is the caller's.
 */
import { stat } from "node:fs/promises";
import { checkTensors } from "../../ops/architectures/index.ts";
import { CodedError } from "../../ops/errors.ts";
import type { BlobLocation, CheckpointManifest, FileRef } from "../../ops/manifest.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import { blobPath } from "./blobs.ts";
import type { SourceFile } from "./confine.ts";
import { checkpointDigest } from "./digest.ts";
import { gatherTensors, type ScatteredTensor } from "./gatherTensors.ts";
import { hashRanges, type ByteRange } from "./hashing.ts";
import { copyFile, moveFile, placed, referTo, type ImportedBlob, type PlacedFile } from "./place.ts";
import {
  directorySource,
  fileListSource,
  openCheckpoint,
  type FileSource,
  type OpenedCheckpoint,
  type OpenedTensor,
} from "./reader.ts";
import { quoted } from "./strictJson.ts";

export interface ImportOptions {
  readonly blobDir: string;
  readonly signal?: AbortSignal | undefined;
  /** Called with bytes copied and hashed so far, and in all. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

export interface ImportResult {
  readonly manifest: CheckpointManifest;
  /** `checkpointDigest` of the manifest. */
  readonly digest: string;
  /** Each blob once. */
  readonly blobs: readonly ImportedBlob[];
}

/** How weight files become blobs; small files are always copied. */
type Placing = "reference" | "copy" | "move" | "stored";

/** SHA-256 by file name, of files that are in the store already. */
type KnownDigests = ReadonlyMap<string, string>;

/**
 * Registers a directory in the Hugging Face layout. By reference, weights stay where they are: the files
 * must not change, and reading them later notices when they did. By copy, the directory is no longer needed.
 * @throws forbidden, checkpoint_missing_file, checkpoint_corrupt, checkpoint_unsupported, source_changed,
 *   storage_full
 */
export async function importDirectory(
  options: ImportOptions & {
    readonly path: string;
    readonly mode: "reference" | "copy";
    readonly importRoots: readonly string[];
  },
): Promise<ImportResult> {
  const source = await directorySource(options.path, options.importRoots);
  return importSource(source, options.mode, options);
}

/** A file on local disk that this service owns, under the name it has in the Hugging Face layout. */
export interface LocalFile {
  readonly name: string;
  readonly path: string;
}

/**
 * Makes a checkpoint of uploaded files. Weight files are moved into the store, so the upload is used up;
 * small ones are copied. Pass only files that nobody else writes to.
 * @throws as `importDirectory`; invalid_request for a name given twice
 */
export async function importFiles(
  options: ImportOptions & { readonly files: readonly LocalFile[] },
): Promise<ImportResult> {
  const files: SourceFile[] = [];
  for (const { name, path } of options.files) files.push(await lookAt(name, path));
  return importSource(fileListSource(files), "move", options);
}

/** Makes a checkpoint of files that lie in the store already. @throws as `importDirectory` */
export async function importStored(
  options: ImportOptions & { readonly files: readonly PlacedFile[] },
): Promise<ImportResult> {
  const files: SourceFile[] = [];
  for (const { name, path } of options.files) files.push(await lookAt(name, path));
  const digests = new Map(options.files.map((file) => [file.name, file.blob.digest]));
  return importSource(fileListSource(files), "stored", options, digests);
}

async function lookAt(name: string, path: string): Promise<SourceFile> {
  const stats = await stat(path).catch((cause: unknown) => {
    throw new CodedError("checkpoint_missing_file", `${quoted(name)} is missing`, { cause });
  });
  if (!stats.isFile()) throw new CodedError("checkpoint_corrupt", `${quoted(name)} is not a regular file`);
  return { name, path, sizeBytes: stats.size, mtimeMs: stats.mtimeMs };
}

async function importSource(
  source: FileSource,
  placing: Placing,
  options: ImportOptions,
  known: KnownDigests = new Map(),
): Promise<ImportResult> {
  const opened = await openCheckpoint(source, options.signal);
  const small = await placeSmallFiles(opened, placing, known, options);
  const onBytes = progressOf(opened, placing, options);
  const weights = await placeWeights(opened, placing, known, { ...options, onBytes });
  const scattered = opened.tensors.filter(isScattered);
  const gathered =
    scattered.length > 0
      ? await gatherTensors(options.blobDir, scattered, weights.files, { signal: options.signal, onBytes })
      : null;
  const tensors = refer(opened, weights, gathered?.tensors ?? []);
  const original = (): FileRef[] =>
    [opened.configFile, opened.indexFile, ...opened.weightFiles]
      .filter((file) => file !== null)
      .map((file) => fileRef(small.get(file.name) ?? weights.files.get(file.name), file.name));
  const files = opened.companions.map((file) => fileRef(small.get(file.name), file.name));
  const manifest: CheckpointManifest = {
    architecture: "llama",
    config: opened.config,
    configJson: opened.configJson,
    tensors,
    files,
    // What came in another layout downloads in Hugging Face's.
    original: opened.isConverted ? null : original(),
    optimizer: null,
  };
  const blobs = new Map<string, ImportedBlob>(gathered === null ? [] : [[gathered.blob.digest, gathered.blob]]);
  for (const { blob } of [...small.values(), ...weights.files.values()]) {
    // Bytes that lie both in the store and outside it are better read from the store.
    if (blobs.get(blob.digest)?.external !== null) blobs.set(blob.digest, blob);
  }
  return { manifest, digest: checkpointDigest(manifest), blobs: [...blobs.values()] };
}

/** Every weight byte is hashed as part of its tensor, and once more when it is copied or hashed as a file. */
function progressOf(opened: OpenedCheckpoint, placing: Placing, options: ImportOptions): (bytes: number) => void {
  const weightBytes = opened.weightFiles.reduce((sum, file) => sum + file.sizeBytes, 0);
  const tensorBytes = opened.tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, opened.tiedHead?.sizeBytes ?? 0);
  const totalBytes = tensorBytes + (placing === "stored" ? 0 : weightBytes);
  let doneBytes = 0;
  return (bytes) => {
    doneBytes += bytes;
    options.onProgress?.(doneBytes, totalBytes);
  };
}

async function placeSmallFiles(
  opened: OpenedCheckpoint,
  placing: Placing,
  known: KnownDigests,
  options: ImportOptions,
): Promise<Map<string, PlacedFile>> {
  const placedFiles = new Map<string, PlacedFile>();
  // Of a checkpoint that came in another layout, the service writes these two anew when it downloads.
  const described = opened.isConverted ? [] : [opened.configFile, opened.indexFile];
  const small = [...described, ...opened.companions].filter((file) => file !== null);
  for (const file of small) {
    const digest = placing === "stored" ? known.get(file.name) : undefined;
    const result =
      digest === undefined
        ? await copyFile(options.blobDir, file, { signal: options.signal })
        : placed(options.blobDir, file.name, { digest, sizeBytes: file.sizeBytes });
    placedFiles.set(file.name, result);
  }
  return placedFiles;
}

interface PlacedWeights {
  readonly files: ReadonlyMap<string, PlacedFile>;
  /** SHA-256 of each tensor that lies in one piece, by name; of the tied head too. */
  readonly tensorDigests: ReadonlyMap<string, string>;
}

async function placeWeights(
  opened: OpenedCheckpoint,
  placing: Placing,
  known: KnownDigests,
  { blobDir, signal, onBytes }: ImportOptions & { readonly onBytes: (bytes: number) => void },
): Promise<PlacedWeights> {
  const all = opened.tiedHead === null ? opened.tensors : [...opened.tensors, opened.tiedHead];
  const tensors = all.filter((tensor) => !isScattered(tensor));
  const files = new Map<string, PlacedFile>();
  if (placing === "copy") {
    for (const file of opened.weightFiles) files.set(file.name, await copyFile(blobDir, file, { signal, onBytes }));
  }
  if (placing === "stored") {
    for (const { name, sizeBytes } of opened.weightFiles) {
      files.set(name, placed(blobDir, name, { digest: known.get(name) ?? "", sizeBytes }));
    }
  }
  // Files that are not in the store yet are hashed together with their tensors: two passes, run side by side.
  const unhashed = opened.weightFiles.filter((file) => !files.has(file.name));
  const ranges: ByteRange[] = unhashed.map(({ path, sizeBytes }) => ({ path, offset: 0, sizeBytes }));
  for (const { file, offset, sizeBytes } of tensors) {
    ranges.push({ path: files.get(file.name)?.path ?? file.path, offset, sizeBytes });
  }
  let hashed = 0;
  const digests = await hashRanges(ranges, {
    signal,
    onProgress: (done) => {
      onBytes(done - hashed);
      hashed = done;
    },
  });
  for (const [index, file] of unhashed.entries()) {
    const digest = digests[index] ?? "";
    const isOurs = placing === "move";
    files.set(file.name, isOurs ? await moveFile(blobDir, file, digest, { signal }) : await referTo(file, digest));
  }
  const named = tensors.map((tensor, index) => [tensor.name, digests[unhashed.length + index] ?? ""] as const);
  return { files, tensorDigests: new Map(named) };
}

function isScattered(tensor: OpenedTensor): tensor is ScatteredTensor {
  return tensor.pieces !== null;
}

/** @throws checkpoint_corrupt when a head is stored although tied, and is not the embedding */
function refer(
  opened: OpenedCheckpoint,
  { files, tensorDigests }: PlacedWeights,
  gathered: readonly TensorRef[],
): readonly TensorRef[] {
  const { config, tiedHead } = opened;
  const all = tiedHead === null ? opened.tensors : [...opened.tensors, tiedHead];
  const gatheredByName = new Map(gathered.map((tensor) => [tensor.name, tensor]));
  const refs = all.map(({ name, dtype, shape, file, offset, sizeBytes }): TensorRef => {
    const blob = (files.get(file.name) as PlacedFile).blob.digest;
    const sha256 = tensorDigests.get(name) ?? "";
    return gatheredByName.get(name) ?? { name, dtype, shape, blob, offset, sizeBytes, sha256 };
  });
  // Again, now that digests are known: a tied head has to hold the embedding's bytes.
  const { tensors } = checkTensors(config, refs);
  const embedding = tensors.find((tensor) => tensor.name === "model.embed_tokens.weight");
  if (tiedHead !== null && tiedHead.dtype !== embedding?.dtype) {
    const problem = `${tiedHead.name} is ${tiedHead.dtype}, the embedding it is tied to is ${embedding?.dtype}`;
    throw new CodedError("checkpoint_corrupt", problem);
  }
  return tensors;
}

function fileRef(file: PlacedFile | undefined, name: string): FileRef {
  if (file === undefined) throw new Error(`file ${name} was not placed`);
  return { name, blob: file.blob.digest, sizeBytes: file.blob.sizeBytes };
}

/** Where the blobs of an import lie: what resolves its manifest before the database knows it. */
export function importedLocations(
  result: Pick<ImportResult, "blobs">,
  blobDir: string,
): Readonly<Record<string, BlobLocation>> {
  return Object.fromEntries(
    result.blobs.map(({ digest, sizeBytes, external }) => {
      const path = external?.path ?? blobPath(blobDir, digest);
      return [digest, { path, sizeBytes, mtimeMs: external?.mtimeMs ?? null }];
    }),
  );
}
