/**
 * Rows of blobs and of who refers to them. A blob lives as long as a checkpoint, a dataset or a job's resume
 * point refers to it. Bytes are written before the transaction that refers to them; a blob nobody refers to
 * is swept after a grace. Sweep and use meet on the row: whoever sweeps holds it until the file is gone, and
 * whoever refers to it next checks that the file is there.
 */
import { stat } from "node:fs/promises";
import { and, eq, inArray, isNull, lt, ne, notExists, sql } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { CheckpointManifest, DatasetManifest } from "../../ops/manifest.ts";
import type { BlobLocation } from "../../ops/manifest.ts";
import type { TensorRef } from "../../ops/tensor.ts";
import type { Database } from "./client.ts";
import { blobRefs, blobs } from "./schema.ts";
import type { BlobStoreRows, NewBlobRow } from "./types.ts";

/** Where a digest's file lies; known to engine/checkpoint, which the store must not import. */
export type BlobPath = (digest: string) => string;

/** Where the bytes of blobs are for this process, and whether they are where everybody finds them. */
export interface BlobFiles {
  readonly path: BlobPath;
  /** Whether files registered by reference are read where they lie; else all is read from `path`. */
  readonly shared: boolean;
  /** @returns the size of the file that the service itself keeps of a blob, or null where it has none */
  sizeOf(blob: { readonly digest: string; readonly sizeBytes: number }): Promise<number | null>;
}

/** @returns the files of a process that has the service's own directory. */
export function sharedFiles(path: BlobPath): BlobFiles {
  const sizeOf: BlobFiles["sizeOf"] = ({ digest }) =>
    stat(path(digest)).then(
      (file) => file.size,
      () => null,
    );
  return { path, shared: true, sizeOf };
}

/** Rows in one statement: a model of 126 layers split per tensor stays far below it. */
const maxRowsPerStatement = 1_000;
const sweepBatch = 500;

export interface BlobRows extends BlobStoreRows {
  /**
   * Removes rows that nothing refers to and that are older than `graceMs`; `unlink` is called for each file
   * of the blob directory while its row is held. @returns how many
   */
  sweep(graceMs: number, unlink: (digest: string) => Promise<void>): Promise<number>;
}

export function createBlobRows(db: Database, files: BlobFiles): BlobRows {
  const orphan = (cutoff: Date) =>
    and(
      lt(blobs.createdAt, cutoff),
      notExists(
        db
          .select({ one: sql`1` })
          .from(blobRefs)
          .where(eq(blobRefs.digest, blobs.digest)),
      ),
    );
  return {
    async locate(digests) {
      const found: Record<string, BlobLocation> = {};
      for (const part of chunks([...new Set(digests)], maxRowsPerStatement)) {
        for (const row of await db.select().from(blobs).where(inArray(blobs.digest, part))) {
          const { digest, sizeBytes } = row;
          const elsewhere = files.shared ? row.path : null;
          const mtimeMs = elsewhere === null ? null : row.mtimeMs;
          found[digest] = { path: elsewhere ?? files.path(digest), sizeBytes, mtimeMs };
        }
      }
      return found;
    },
    async known(digests) {
      const found = new Set<string>();
      for (const part of chunks([...new Set(digests)], maxRowsPerStatement)) {
        const rows = await db.select({ digest: blobs.digest }).from(blobs).where(inArray(blobs.digest, part));
        for (const row of rows) found.add(row.digest);
      }
      return found;
    },
    async takeOrphans() {
      const rows = await db.delete(blobs).where(orphan(new Date())).returning();
      return rows.filter((row) => row.path === null).map((row) => row.digest);
    },
    async sweep(graceMs, unlink) {
      return db.transaction(async (tx) => {
        const cutoff = new Date(Date.now() - graceMs);
        const picked = tx.select({ digest: blobs.digest }).from(blobs).where(orphan(cutoff)).limit(sweepBatch);
        const rows = await tx.delete(blobs).where(inArray(blobs.digest, picked)).returning();
        for (const row of rows) if (row.path === null) await unlink(row.digest);
        return rows.length;
      });
    },
  };
}

/**
 * Writes rows for blobs that may be new, within a transaction, and checks that each file is there.
 * @returns digest -> bytes of the files of the blob directory that the store did not know
 */
export async function insertBlobs(
  tx: Database,
  rows: readonly NewBlobRow[],
  files: BlobFiles,
): Promise<ReadonlyMap<string, number>> {
  const gained = new Map<string, number>();
  const unique = [...new Map(rows.map((row) => [row.digest, row])).values()];
  // in one order everywhere, so that two transactions never wait for each other in a circle
  unique.sort((a, b) => (a.digest < b.digest ? -1 : 1));
  for (const part of chunks(unique, maxRowsPerStatement)) {
    const before = await tx
      .select({ digest: blobs.digest })
      .from(blobs)
      .where(
        and(
          inArray(
            blobs.digest,
            part.map((row) => row.digest),
          ),
          isNull(blobs.path),
        ),
      );
    const had = new Set(before.map((row) => row.digest));
    await tx
      .insert(blobs)
      .values(part.map((row) => toRow(row)))
      .onConflictDoUpdate({
        target: blobs.digest,
        // a file of our own outranks one by reference; of two by reference the later is the one just read
        set: {
          path: sql`case when ${blobs.path} is null then null else excluded.path end`,
          mtimeMs: sql`case when ${blobs.path} is null then null else excluded.mtime_ms end`,
        },
      });
    for (const row of part) {
      if (row.external !== null) continue;
      await assertFile(files, row);
      if (!had.has(row.digest)) gained.set(row.digest, row.sizeBytes);
    }
  }
  return gained;
}

function toRow(row: NewBlobRow): typeof blobs.$inferInsert {
  const { digest, sizeBytes, external } = row;
  return { digest, sizeBytes, path: external?.path ?? null, mtimeMs: external?.mtimeMs ?? null, createdAt: new Date() };
}

async function assertFile(files: BlobFiles, blob: { digest: string; sizeBytes: number }): Promise<void> {
  const size = await files.sizeOf(blob);
  if (size === blob.sizeBytes) return;
  const got = size === null ? "is missing" : `has ${size} bytes`;
  throw new CodedError("store_unavailable", `blob ${blob.digest} ${got}, wanted ${blob.sizeBytes} bytes`);
}

/** Makes `owner` refer to exactly these blobs. @throws store_unavailable when one of them is unknown */
export async function setBlobRefs(tx: Database, owner: string, digests: Iterable<string>): Promise<void> {
  const wanted = [...new Set(digests)].sort();
  const present = await tx.select({ digest: blobRefs.digest }).from(blobRefs).where(eq(blobRefs.owner, owner));
  const had = new Set(present.map((row) => row.digest));
  const gone = [...had].filter((digest) => !wanted.includes(digest));
  for (const part of chunks(gone, maxRowsPerStatement)) {
    await tx.delete(blobRefs).where(and(eq(blobRefs.owner, owner), inArray(blobRefs.digest, part)));
  }
  const added = wanted.filter((digest) => !had.has(digest));
  for (const part of chunks(added, maxRowsPerStatement)) {
    await tx.insert(blobRefs).values(part.map((digest) => ({ owner, digest })));
  }
}

/** Digests of `owner` that somebody else refers to as well. */
export async function sharedWith(db: Database, owner: string): Promise<Set<string>> {
  const own = db.select({ digest: blobRefs.digest }).from(blobRefs).where(eq(blobRefs.owner, owner));
  const rows = await db
    .selectDistinct({ digest: blobRefs.digest })
    .from(blobRefs)
    .where(and(ne(blobRefs.owner, owner), inArray(blobRefs.digest, own)));
  return new Set(rows.map((row) => row.digest));
}

/** Every blob that a checkpoint's manifest names. */
export function blobsOfCheckpoint(manifest: CheckpointManifest): Set<string> {
  const refs: readonly (readonly TensorRef[])[] = [
    manifest.tensors,
    manifest.optimizer?.firstMoments ?? [],
    manifest.optimizer?.secondMoments ?? [],
  ];
  const digests = new Set(refs.flat().map((tensor) => tensor.blob));
  for (const file of [...manifest.files, ...(manifest.original ?? [])]) digests.add(file.blob);
  return digests;
}

/** Every blob that a dataset's manifest names. */
export function blobsOfDataset(manifest: DatasetManifest): Set<string> {
  const digests = new Set([...manifest.train, ...manifest.validation].map((shard) => shard.blob));
  if (manifest.tokenizer.kind === "checkpoint") for (const file of manifest.tokenizer.files) digests.add(file.blob);
  return digests;
}

export function* chunks<Item>(items: readonly Item[], size: number): Generator<Item[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size);
}
