/**
 * Executes one recipe into a file: by rows where the recipe has them, through the compiled kernel where it takes the
 * program, so that memory is one block of rows and never a tensor; else from whole inputs. The bytes are the same
 * whichever way is taken.
 */
import { decodeToF32, dtypeBytes, encodeFromF32 } from "../../ops/dtype.ts";
import { CodedError, invariant } from "../../ops/errors.ts";
import { rowsPerBlock, type BuildRecipe, type MatrixRows } from "../../ops/growth/index.ts";
import type { BlobLocation } from "../../ops/manifest.ts";
import type { TensorInfo, TensorRef } from "../../ops/tensor.ts";
import { openBlob, type BlobReader } from "../checkpoint/blobReader.ts";
import { locate, TensorReader } from "../checkpoint/tensorReader.ts";
import { rowKernelTakes, type RowKernel } from "./rowKernel.ts";
import { TensorFile } from "./tensorFile.ts";

/** A tensor to build and where its inputs lie. */
export interface TensorOrder {
  readonly info: TensorInfo;
  readonly recipe: BuildRecipe;
  /** The source's tensors by name. */
  readonly sources: ReadonlyMap<string, TensorRef>;
  readonly blobs: Readonly<Record<string, BlobLocation>>;
}

export interface BuildOptions {
  /** Null where the loops are to be used. */
  readonly kernel: RowKernel | null;
  /** Called with the bytes of each block that was written; may wait, or throw to stop. */
  readonly onBytes: (bytes: number) => Promise<void> | void;
}

export interface BuiltFile {
  readonly sha256: string;
  readonly sizeBytes: number;
}

/**
 * @param path of the file to make
 * @throws storage_full, source_changed, checkpoint_corrupt; the file is then closed, and the caller's to remove
 */
export async function buildTensor(order: TensorOrder, path: string, options: BuildOptions): Promise<BuiltFile> {
  const { info, recipe } = order;
  const file = new TensorFile(path);
  try {
    const { rows } = recipe;
    if (rows === undefined) {
      const bytes = encodeFromF32(await buildWhole(order), info.dtype);
      file.write(bytes);
      await options.onBytes(bytes.length);
    } else {
      await writeRows(order, rows, file, options);
    }
    const wanted = info.shape.reduce((product, extent) => product * extent, dtypeBytes(info.dtype));
    if (file.sizeBytes !== wanted) {
      throw new CodedError("internal", `tensor ${info.name}: ${file.sizeBytes} bytes were built, ${wanted} wanted`);
    }
    return { sha256: file.digest(), sizeBytes: file.sizeBytes };
  } finally {
    file.close();
  }
}

/** @returns the values of a tensor built from whole inputs. */
export async function buildWhole({ recipe, sources, blobs }: TensorOrder): Promise<Float32Array> {
  const reader = new TensorReader(blobs);
  try {
    const inputs: Float32Array[] = [];
    for (const name of recipe.inputs) inputs.push(await reader.read(sourceOf(name, sources)));
    return recipe.build(inputs);
  } finally {
    await reader.close();
  }
}

function sourceOf(name: string, sources: ReadonlyMap<string, TensorRef>): TensorRef {
  const tensor = sources.get(name);
  invariant(tensor, `the plan reads ${name}, which the source has`);
  return tensor;
}

async function writeRows(order: TensorOrder, rows: MatrixRows, file: TensorFile, options: BuildOptions): Promise<void> {
  const source = sourceOf(order.recipe.inputs[0]!, order.sources);
  const reader = await openBlob(locate(order.blobs, source.blob));
  try {
    const perBlock = rowsPerBlock(rows);
    const block = blockBuilder(order, rows, source, perBlock, options.kernel);
    const loader = new RunLoader(rows, source, reader, block.source);
    for (let start = 0; start < rows.origin.length; start += perBlock) {
      const end = Math.min(rows.origin.length, start + perBlock);
      for (let row = start; row < end; row += 1) {
        const { at, fresh } = loader.locate(row, end);
        block.build(row, at, row - start, fresh);
      }
      const bytes = block.take(end - start);
      file.write(bytes);
      await options.onBytes(bytes.length);
    }
  } finally {
    await reader.close();
  }
}

/** Where one block of target rows comes out. */
interface BlockBuilder {
  /** Room for a run of source rows, as stored. */
  readonly source: Uint8Array<ArrayBuffer>;
  /**
   * @param at which of the rows in `source` the row comes from
   * @param place which row of the block it becomes
   * @param fresh whether `source` was filled anew since the last call
   */
  build(row: number, at: number, place: number, fresh: boolean): void;
  /** @returns the bytes of the block's first rows; good until the next `build`. */
  take(count: number): Uint8Array;
}

function blockBuilder(
  { info }: TensorOrder,
  rows: MatrixRows,
  { dtype }: TensorRef,
  perBlock: number,
  kernel: RowKernel | null,
): BlockBuilder {
  const program = kernel !== null && dtype === info.dtype && rowKernelTakes(dtype) ? rows.program() : null;
  const rowBytes = rows.width * dtypeBytes(dtype);
  const sourceRowBytes = rows.sourceWidth * dtypeBytes(dtype);
  const sourceBytes = perBlock * sourceRowBytes;
  if (kernel !== null && program !== null) {
    const bench = kernel.prepare(rows, program, dtype, sourceBytes, perBlock * rowBytes);
    return {
      source: bench.source,
      build: (row, at, place) => bench.build(row, at * sourceRowBytes, place * rowBytes),
      take: (count) => bench.out.subarray(0, count * rowBytes),
    };
  }
  const source = new Uint8Array(sourceBytes);
  const out = new Float32Array(perBlock * rows.width);
  const write = rows.start();
  let values = new Float32Array(0);
  return {
    source,
    build(row, at, place, fresh) {
      if (fresh) values = decodeToF32(source, dtype) as Float32Array<ArrayBuffer>;
      write(out, place * rows.width, values, at * rows.sourceWidth, row);
    },
    take: (count) => encodeFromF32(out.subarray(0, count * rows.width), info.dtype),
  };
}

/** Keeps a run of neighbouring source rows at hand: as many of the rows wanted next as fit. */
class RunLoader {
  readonly #rows: MatrixRows;
  readonly #tensor: TensorRef;
  readonly #reader: BlobReader;
  readonly #room: Uint8Array;
  readonly #rowBytes: number;
  /** Source rows in the room: #first .. #end - 1. */
  #first = 0;
  #end = 0;

  constructor(rows: MatrixRows, tensor: TensorRef, reader: BlobReader, room: Uint8Array) {
    this.#rows = rows;
    this.#tensor = tensor;
    this.#reader = reader;
    this.#room = room;
    this.#rowBytes = rows.sourceWidth * dtypeBytes(tensor.dtype);
  }

  /** @returns where in the room the row's source row is, 0 where it has none, and whether the room was filled anew. */
  locate(row: number, blockEnd: number): { at: number; fresh: boolean } {
    const from = this.#rows.origin[row]!;
    if (from < 0) return { at: 0, fresh: false };
    const fresh = from < this.#first || from >= this.#end;
    if (fresh) this.#load(row, blockEnd);
    return { at: from - this.#first, fresh };
  }

  #load(row: number, blockEnd: number): void {
    const { origin } = this.#rows;
    const most = Math.floor(this.#room.length / this.#rowBytes);
    let first = origin[row]!;
    let end = first + 1;
    for (let next = row + 1; next < blockEnd; next += 1) {
      const from = origin[next]!;
      if (from < 0) continue;
      const [low, high] = [Math.min(first, from), Math.max(end, from + 1)];
      if (high - low > most) break;
      [first, end] = [low, high];
    }
    const bytes = this.#room.subarray(0, (end - first) * this.#rowBytes);
    this.#reader.readIntoSync(bytes, this.#tensor.offset + first * this.#rowBytes);
    [this.#first, this.#end] = [first, end];
  }
}
