/**
 * Builds what a growth plan has to build. A tensor of some size becomes a blob of its own, so that its bytes are hashed
 * once and several threads can write at once; small ones share a blob. Memory is a block of rows for each thread.
 * Tensors that are copies are not touched: they are references to the source's blobs. Nothing has a name in the store
 * before everything is built and durable; an error or a cancellation leaves no file behind.
 */
import { randomUUID } from "node:crypto";
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import { planGrowth, type GrowthPlan } from "../../ops/growth/index.ts";
import type { OptimizerRef, ResolvedCheckpoint } from "../../ops/manifest.ts";
import { tensorBytes } from "../../ops/dtype.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import { asStorageError, publishFiles, removeIfThere, temporaryDir } from "../checkpoint/blobs.ts";
import { writeTensors, type WriteOptions } from "../checkpoint/writer.ts";
import { buildTensor, buildWhole, type BuiltFile, type TensorOrder } from "./buildTensor.ts";
import { buildInThreads } from "./growThreads.ts";
import { compileRowKernel, createRowKernel } from "./rowKernel.ts";
import { isBuilt, targetTensors } from "./targetTensors.ts";
import { tensorOrders, tensorSets, type GrowWork, type TensorSet } from "./work.ts";

export interface BuiltTensors {
  /** In the plan's order; none where the plan only copies. */
  readonly tensors: readonly TensorRef[];
  /** Whatever was written, moments included. */
  readonly blobs: readonly NewBlob[];
  /** The grown moments, each list in the plan's order; null unless asked for. */
  readonly optimizer: OptimizerRef | null;
}

export interface GrowOptions extends WriteOptions {
  /** Threads that build, at most; by default 1, which is this one. */
  readonly threads?: number;
  /** Below this many bytes a thread takes longer to start than it saves. */
  readonly threadedBytes?: number;
}

/** Smaller tensors are written together. */
const ownBlobBytes = 256 * 1024;
const defaultThreadedBytes = 32 << 20;
/** More threads than that wait for the disk. */
const mostThreads = 4;
/** This thread lets others run after so many bytes. */
const breathBytes = 8 << 20;

/** Plans again, which costs nothing and keeps functions out of the request, and builds. */
export function growTensors(work: GrowWork, options: GrowOptions): Promise<BuiltTensors> {
  const plan = planGrowth(work.source.manifest, work.request);
  const sets = tensorSets(plan, work.source, work.growOptimizer === true);
  return build(sets, work.source, work.blobDir, options, work);
}

/**
 * The same for a plan that is known here alone, in this thread.
 * @throws storage_full, source_changed, cancelled by the signal; then nothing is visible in the blob directory
 */
export function buildTensors(
  plan: GrowthPlan,
  source: ResolvedCheckpoint,
  blobDir: string,
  options: WriteOptions,
): Promise<BuiltTensors> {
  return build(tensorSets(plan, source, false), source, blobDir, options, null);
}

/** A tensor with its order's number and, once it is built, its file. */
interface Part {
  readonly index: number;
  readonly order: TensorOrder;
  readonly sizeBytes: number;
  readonly path: string;
}

async function build(
  sets: readonly TensorSet[],
  source: ResolvedCheckpoint,
  blobDir: string,
  options: GrowOptions,
  work: GrowWork | null,
): Promise<BuiltTensors> {
  const folder = temporaryDir(blobDir);
  const prefix = randomUUID();
  const parts = tensorOrders(sets, source).map((order, index): Part => {
    return { index, order, sizeBytes: tensorBytes(order.info), path: join(folder, `${prefix}-${index}`) };
  });
  const large = parts.filter(({ sizeBytes }) => sizeBytes >= ownBlobBytes);
  const small = parts.filter(({ sizeBytes }) => sizeBytes < ownBlobBytes);
  const progress = progressOf(parts, options);
  const refs = new Map<number, TensorRef>();
  const blobs: NewBlob[] = [];
  try {
    if (large.length > 0) await makeFolder(folder);
    const built = await buildLarge(large, options, progress, work);
    for (const set of smallSets(sets, small)) {
      const written = await writeTensors(
        blobDir,
        set.map(({ order }) => toWrite(order)),
        { signal: options.signal },
      );
      blobs.push(written.blob);
      set.forEach(({ index }, at) => refs.set(index, written.tensors[at]!));
      progress(set.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0));
    }
    options.signal?.throwIfAborted();
    const files = large.map(({ path }, at) => {
      const { sha256: digest, sizeBytes } = built[at]!;
      return { path, blob: { digest, sizeBytes } };
    });
    await publishFiles(blobDir, files);
    large.forEach(({ index, order }, at) => {
      const { sha256, sizeBytes } = built[at]!;
      refs.set(index, { ...order.info, blob: sha256, offset: 0, sizeBytes, sha256 });
    });
    blobs.push(...new Map(files.map(({ blob }) => [blob.digest, blob])).values());
  } finally {
    await Promise.all(large.map(({ path }) => removeIfThere(path)));
  }
  return assemble(sets, refs, blobs, source);
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw asStorageError(error);
  }
}

function progressOf(parts: readonly Part[], { onProgress }: GrowOptions): (bytes: number) => void {
  const total = parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  let done = 0;
  return (bytes) => {
    done += bytes;
    onProgress?.(done, total);
  };
}

/** Each file is made durable while the next one is built. */
async function buildLarge(
  large: readonly Part[],
  options: GrowOptions,
  progress: (bytes: number) => void,
  work: GrowWork | null,
): Promise<BuiltFile[]> {
  const bytes = large.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const threads = Math.min(options.threads ?? 1, mostThreads, large.length);
  const synced: Promise<void>[] = [];
  const onBuilt = (path: string): void => {
    const syncing = syncFile(path);
    syncing.catch(() => undefined); // heard below, once everything is built
    synced.push(syncing);
  };
  const ordered = large.map(({ index, path, sizeBytes }) => ({ index, path, sizeBytes }));
  const built =
    work !== null && threads > 1 && bytes >= (options.threadedBytes ?? defaultThreadedBytes)
      ? await buildInThreads(work, ordered, threads, { signal: options.signal, onBytes: progress, onBuilt })
      : await buildHere(large, options, progress, onBuilt);
  await Promise.all(synced);
  return built;
}

async function buildHere(
  large: readonly Part[],
  { signal }: GrowOptions,
  progress: (bytes: number) => void,
  onBuilt: (path: string) => void,
): Promise<BuiltFile[]> {
  const kernel = large.length === 0 ? null : createRowKernel(compileRowKernel());
  let unseen = 0;
  const onBytes = async (bytes: number): Promise<void> => {
    progress(bytes);
    unseen += bytes;
    if (unseen < breathBytes) return;
    unseen = 0;
    await new Promise((resolve) => setImmediate(resolve));
    signal?.throwIfAborted();
  };
  const built: BuiltFile[] = [];
  for (const { order, path } of large) {
    signal?.throwIfAborted();
    built.push(await buildTensor(order, path, { kernel, onBytes }));
    onBuilt(path);
  }
  return built;
}

async function syncFile(path: string): Promise<void> {
  const handle = await open(path, "r+");
  try {
    await handle.sync();
  } catch (error) {
    throw asStorageError(error);
  } finally {
    await handle.close();
  }
}

/** Names are unique within a set, and so within a blob. */
function smallSets(sets: readonly TensorSet[], small: readonly Part[]): Part[][] {
  const result: Part[][] = [];
  let from = 0;
  for (const { planned } of sets) {
    const to = from + planned.filter(({ recipe }) => isBuilt(recipe)).length;
    const mine = small.filter(({ index }) => index >= from && index < to);
    if (mine.length > 0) result.push(mine);
    from = to;
  }
  return result;
}

function toWrite(order: TensorOrder): { info: TensorOrder["info"]; data: () => Promise<Float32Array> } {
  return { info: order.info, data: () => buildWhole(order) };
}

function assemble(
  sets: readonly TensorSet[],
  refs: ReadonlyMap<number, TensorRef>,
  blobs: readonly NewBlob[],
  source: ResolvedCheckpoint,
): BuiltTensors {
  let next = 0;
  const builtOf = ({ planned }: TensorSet): TensorRef[] =>
    planned.flatMap(({ info, recipe }) => {
      if (!isBuilt(recipe)) return [];
      const ref = refs.get(next++);
      if (ref === undefined) throw new CodedError("internal", `tensor ${info.name} was not built`);
      return [ref];
    });
  const [tensors = [], ...moments] = sets.map(builtOf);
  const [first, second] = moments.map((built, at) => {
    const { planned, sources } = sets[at + 1]!;
    return targetTensors(planned, sources, built);
  });
  const { optimizer } = source.manifest;
  const grown = optimizer && first && second ? { ...optimizer, firstMoments: first, secondMoments: second } : null;
  return { tensors, blobs, optimizer: grown };
}
