/** Datasets: rows, and the blobs of their token shards. A dataset never changes once it is there. */
import { and, desc, eq, inArray, lt, or } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { BlobFiles, BlobRows } from "./blobs.ts";
import { blobsOfDataset, insertBlobs, setBlobRefs } from "./blobs.ts";
import { decodeCursor, toPage } from "./cursor.ts";
import type { Database } from "./client.ts";
import { isId, newId } from "./ids.ts";
import { assertUnused } from "./lineage.ts";
import { blobRefs, datasets } from "./schema.ts";
import type { DatasetRow, DatasetStore } from "./types.ts";

export type NewDataset = Parameters<DatasetStore["create"]>[0];

export function createDatasetStore(db: Database, blobRows: BlobRows, files: BlobFiles): DatasetStore {
  return {
    create: (dataset) => db.transaction((tx) => insertDataset(tx, dataset, files)),
    get: (idOrName) => getDataset(db, idOrName),
    async list({ limit, after }) {
      const position = after === undefined ? null : decodeCursor(after);
      const before =
        position === null
          ? undefined
          : or(
              lt(datasets.createdAt, position.createdAt),
              and(eq(datasets.createdAt, position.createdAt), lt(datasets.id, position.id)),
            );
      const newestFirst = [desc(datasets.createdAt), desc(datasets.id)];
      const rows = await db
        .select()
        .from(datasets)
        .where(before)
        .orderBy(...newestFirst)
        .limit(limit + 1);
      return toPage(rows, limit);
    },
    delete: (id, ifVersion) =>
      db.transaction(async (tx) => {
        const held = tx.select({ version: datasets.version }).from(datasets).where(eq(datasets.id, id)).for("update");
        const [row] = await held;
        if (!row) throw new CodedError("not_found", `no dataset ${JSON.stringify(id)}`);
        if (ifVersion !== undefined && ifVersion !== row.version) {
          throw new CodedError("precondition_failed", `${id} is at version ${row.version}, not at ${ifVersion}`);
        }
        await assertUnused(tx, [id]);
        await tx.delete(blobRefs).where(inArray(blobRefs.owner, [id]));
        await tx.delete(datasets).where(eq(datasets.id, id));
      }),
    async resolve(row) {
      const blobs = await blobRows.locate([...blobsOfDataset(row.manifest)]);
      return { id: row.id, manifest: row.manifest, blobs };
    },
  };
}

/** By id or newest of that name. @throws not_found */
export async function getDataset(db: Database, idOrName: string): Promise<DatasetRow> {
  const which = isId(idOrName, "data") ? eq(datasets.id, idOrName) : eq(datasets.name, idOrName);
  const [row] = await db.select().from(datasets).where(which).orderBy(desc(datasets.createdAt)).limit(1);
  if (!row) throw new CodedError("not_found", `no dataset ${JSON.stringify(idOrName)}`);
  return row;
}

/** Writes a dataset and its blobs within a transaction. */
export async function insertDataset(tx: Database, from: NewDataset, files: BlobFiles): Promise<DatasetRow> {
  await insertBlobs(tx, from.blobs, files);
  const { name, manifest, metadata, job } = from;
  const row: DatasetRow = {
    id: from.id ?? newId("data"),
    name,
    manifest,
    metadata,
    job,
    version: 1,
    createdAt: new Date(),
  };
  await tx.insert(datasets).values(row);
  await setBlobRefs(tx, row.id, blobsOfDataset(manifest));
  return row;
}

/** Holds a dataset that a new job reads against deletion, until the transaction ends. @throws not_found */
export async function holdDataset(tx: Database, id: string): Promise<void> {
  const [row] = await tx.select({ id: datasets.id }).from(datasets).where(eq(datasets.id, id)).for("key share");
  if (!row) throw new CodedError("not_found", `no dataset ${JSON.stringify(id)}`);
}
