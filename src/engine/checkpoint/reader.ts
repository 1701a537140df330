/**
 * Opens files as a Llama checkpoint: configuration, weights (one file, or shards with an index), and the
 * companions that travel along. All of it is checked against all of the rest before anything is believed:
 * headers against file sizes, the index against the headers, the tensors against the architecture's table.
 * It reads headers and small files only; hashing and copying are the importer's.
 */
import {
  checkTensors,
  fromLitGpt,
  isLitGpt,
  isRotaryBuffer,
  llama,
  type LlamaConfig,
  type NamedRows,
} from "../../ops/architectures/index.ts";
import { CodedError } from "../../ops/errors.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import { dtypes, type Dtype, type TensorInfo } from "../../ops/tensor.ts";
import type { SourceFile } from "./confine.ts";
import { confine, confineFile, listDirectory, openSource, readFully, readSource } from "./confine.ts";
import {
  companionFileNames,
  configFileName,
  maxCompanionBytes,
  maxConfigBytes,
  noWeights,
  weightsFileName,
} from "./files.ts";
import type { SafetensorsEntry } from "./safetensors.ts";
import { parseHeader, parseHeaderLength, prefixBytes } from "./safetensors.ts";
import { parseStrictJson, quoted, toJsonObject } from "./strictJson.ts";
import { indexFileName, maxIndexBytes, parseWeightIndex, type WeightIndex } from "./weightIndex.ts";

/** Files by name; `find` is called only for names in `names`. */
export interface FileSource {
  readonly names: ReadonlySet<string>;
  find(name: string): Promise<SourceFile>;
}

/** Bytes of a file. */
export interface ByteSpan {
  readonly offset: number;
  readonly sizeBytes: number;
}

/** A tensor and the place of its bytes in one of the weight files. */
export interface OpenedTensor extends TensorInfo, ByteSpan {
  readonly file: SourceFile;
  /** The pieces that make it up, in order, where it lies in several; `offset` is then the first one's. Else null. */
  readonly pieces: readonly ByteSpan[] | null;
}

export interface OpenedCheckpoint {
  readonly config: LlamaConfig;
  readonly configJson: JsonObject;
  readonly configFile: SourceFile;
  readonly indexFile: SourceFile | null;
  readonly weightFiles: readonly SourceFile[];
  /** In the order of the architecture's table. */
  readonly tensors: readonly OpenedTensor[];
  /** An output head stored although it is tied: it must turn out to hold the embedding's bytes. */
  readonly tiedHead: OpenedTensor | null;
  readonly companions: readonly SourceFile[];
  /** Whether the weight files name or lay out tensors otherwise than Hugging Face's do. */
  readonly isConverted: boolean;
}

/**
 * @returns the files of a directory, each confined to the import roots when it is looked at
 * @throws forbidden, checkpoint_missing_file, checkpoint_corrupt
 */
export async function directorySource(path: string, importRoots: readonly string[]): Promise<FileSource> {
  const directory = await confine(path, importRoots);
  const names = await listDirectory(directory);
  return { names, find: (name) => confineFile(directory, name, importRoots) };
}

/** @returns files given one by one, such as those of an upload. @throws invalid_request for a name given twice */
export function fileListSource(files: readonly SourceFile[]): FileSource {
  const byName = new Map(files.map((file) => [file.name, file]));
  if (byName.size !== files.length) throw new CodedError("invalid_request", "two files of the same name");
  return {
    names: new Set(byName.keys()),
    find: async (name) => {
      const file = byName.get(name);
      if (file === undefined) throw new CodedError("checkpoint_missing_file", `${quoted(name)} is missing`);
      return file;
    },
  };
}

/**
 * Opens and checks a checkpoint.
 * @throws checkpoint_missing_file, checkpoint_corrupt, checkpoint_unsupported, forbidden, source_changed
 */
export async function openCheckpoint(source: FileSource, signal?: AbortSignal): Promise<OpenedCheckpoint> {
  if (!source.names.has(configFileName)) {
    throw new CodedError("checkpoint_missing_file", `no ${configFileName}`);
  }
  const configFile = await source.find(configFileName);
  const configJson = parseConfigJson(await readSource(configFile, maxConfigBytes));
  const config = llama.parseConfig(configJson);
  const weights = await readWeights(source, signal);
  const isConverted = isLitGpt(new Set(weights.tensors.keys()));
  const { tensors, tiedHead } = matchTensors(config, offeredTensors(config, weights.tensors, isConverted));
  const companions: SourceFile[] = [];
  for (const name of companionFileNames) {
    if (!source.names.has(name)) continue;
    const file = await source.find(name);
    if (file.sizeBytes > maxCompanionBytes) {
      throw new CodedError("checkpoint_unsupported", `${name}: ${file.sizeBytes} bytes, at most ${maxCompanionBytes}`);
    }
    companions.push(file);
  }
  const { indexFile, weightFiles } = weights;
  return { config, configJson, configFile, indexFile, weightFiles, tensors, tiedHead, companions, isConverted };
}

/** @returns config.json as plain JSON. @throws checkpoint_corrupt */
export function parseConfigJson(bytes: Uint8Array): JsonObject {
  const options = { what: configFileName, code: "checkpoint_corrupt", maxDepth: 32, maxValues: 100_000 } as const;
  return toJsonObject(parseStrictJson(bytes, options), options);
}

/** @returns the header of one weights file, fully checked. @throws checkpoint_corrupt, source_changed */
export async function readHeader(file: SourceFile): Promise<readonly SafetensorsEntry[]> {
  const handle = await openSource(file);
  try {
    const prefix = await readFully(handle, file, 0, Math.min(prefixBytes, file.sizeBytes));
    const length = parseHeaderLength(prefix, file.sizeBytes, file.name);
    const header = await readFully(handle, file, prefixBytes, length);
    return parseHeader(header, file.sizeBytes, file.name).tensors;
  } finally {
    await handle.close();
  }
}

interface Weights {
  readonly indexFile: SourceFile | null;
  readonly weightFiles: readonly SourceFile[];
  readonly tensors: ReadonlyMap<string, OpenedTensorOfAnyType>;
}

type OpenedTensorOfAnyType = SafetensorsEntry & { readonly file: SourceFile };

/** As transformers does, one plain weights file goes before shards where a directory has both. */
async function readWeights(source: FileSource, signal: AbortSignal | undefined): Promise<Weights> {
  if (source.names.has(weightsFileName)) {
    const file = await source.find(weightsFileName);
    const tensors = new Map((await readHeader(file)).map((entry) => [entry.name, { ...entry, file }]));
    return { indexFile: null, weightFiles: [file], tensors };
  }
  if (!source.names.has(indexFileName)) throw noWeights(source.names);
  const indexFile = await source.find(indexFileName);
  const index = parseWeightIndex(await readSource(indexFile, maxIndexBytes));
  const weightFiles: SourceFile[] = [];
  const tensors = new Map<string, OpenedTensorOfAnyType>();
  for (const name of index.shards) {
    signal?.throwIfAborted();
    if (!source.names.has(name)) {
      throw new CodedError("checkpoint_missing_file", `shard ${quoted(name)} is named by ${indexFileName} but missing`);
    }
    const file = await source.find(name);
    weightFiles.push(file);
    addShard(tensors, file, await readHeader(file), index);
  }
  for (const [tensor, shard] of index.shardOf) {
    if (!tensors.has(tensor)) corrupt(`${indexFileName}: tensor ${quoted(tensor)} is not in shard ${quoted(shard)}`);
  }
  return { indexFile, weightFiles, tensors };
}

/** Index and shard must say the same: a tensor lies in the shard named for it, and nowhere else. */
function addShard(
  tensors: Map<string, OpenedTensorOfAnyType>,
  file: SourceFile,
  entries: readonly SafetensorsEntry[],
  index: WeightIndex,
): void {
  for (const entry of entries) {
    const label = `tensor ${quoted(entry.name)}`;
    const other = tensors.get(entry.name);
    if (other !== undefined) corrupt(`${label} is in two shards: ${quoted(other.file.name)} and ${quoted(file.name)}`);
    const shard = index.shardOf.get(entry.name);
    if (shard === undefined) corrupt(`${label} of shard ${quoted(file.name)} is not in ${indexFileName}`);
    if (shard !== file.name) {
      corrupt(`${label} is in shard ${quoted(file.name)}, ${indexFileName} says ${quoted(shard)}`);
    }
    tensors.set(entry.name, { ...entry, file });
  }
}

function corrupt(message: string): never {
  throw new CodedError("checkpoint_corrupt", message);
}

/** The stored tensors under the names of the architecture's table; rotary buffers are left out. */
function offeredTensors(
  config: LlamaConfig,
  found: ReadonlyMap<string, OpenedTensorOfAnyType>,
  isConverted: boolean,
): readonly OpenedTensor[] {
  // Buffers come in types of their own, and are left out anyway.
  const kept = [...found.values()].filter(({ name }) => !isRotaryBuffer(name));
  const stored = kept.map((entry): OpenedTensor => ({ ...entry, dtype: computable(entry), pieces: null }));
  return isConverted ? fromLitGpt(config, stored).map(place) : stored;
}

/** Where rows of a stored tensor lie: in one span where they are neighbours. */
function place({ name, shape, stored, runs }: NamedRows<OpenedTensor>): OpenedTensor {
  if (runs === null) return { ...stored, name };
  const rowBytes = stored.sizeBytes / stored.shape[0]!;
  const spans: ByteSpan[] = [];
  for (const { first, count } of runs) {
    const span = { offset: stored.offset + first * rowBytes, sizeBytes: count * rowBytes };
    const last = spans.at(-1);
    if (last !== undefined && last.offset + last.sizeBytes === span.offset) {
      spans[spans.length - 1] = { ...last, sizeBytes: last.sizeBytes + span.sizeBytes };
    } else spans.push(span);
  }
  const sizeBytes = spans.reduce((sum, span) => sum + span.sizeBytes, 0);
  return { ...stored, name, shape, offset: spans[0]!.offset, sizeBytes, pieces: spans.length > 1 ? spans : null };
}

/**
 * Holds the tensors offered against the architecture's table: none missing, none unknown, every shape right.
 * A tied head is set apart until its bytes are hashed.
 */
function matchTensors(
  config: LlamaConfig,
  offered: readonly OpenedTensor[],
): { tensors: readonly OpenedTensor[]; tiedHead: OpenedTensor | null } {
  const { tensors, ignored } = checkTensors(config, offered);
  const tiedHead = offered.find(({ name }) => ignored.includes(name)) ?? null;
  return { tensors, tiedHead };
}

function computable({ name, dtype }: SafetensorsEntry): Dtype {
  const known = dtypes.find((candidate) => candidate === dtype);
  if (known !== undefined) return known;
  const problem = `tensor ${quoted(name)} is ${dtype}; ${dtypes.join(", ")} wanted`;
  throw new CodedError("checkpoint_unsupported", problem);
}
