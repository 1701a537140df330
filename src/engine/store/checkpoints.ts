/**
 * Checkpoints: rows, names and lineage. A checkpoint never changes but for its name and metadata, so its
 * counts are computed once, from the manifest, when it is written.
 */
import { and, desc, eq, exists, getTableColumns, inArray, lt, or, sql } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { CheckpointManifest } from "../../ops/manifest.ts";
import type { BlobFiles, BlobRows } from "./blobs.ts";
import { blobsOfCheckpoint, insertBlobs, setBlobRefs, sharedWith } from "./blobs.ts";
import { decodeCursor, toPage } from "./cursor.ts";
import type { Database } from "./client.ts";
import { isForeignKeyViolation } from "./failures.ts";
import { isId, newId } from "./ids.ts";
import { deleteCheckpoint, lineageOf } from "./lineage.ts";
import { ManifestCache } from "./manifestCache.ts";
import type { Constants } from "./manifestCache.ts";
import { checkpointParents, checkpoints } from "./schema.ts";
import type { CheckpointRow, CheckpointStore, NewCheckpoint } from "./types.ts";

type Row = typeof checkpoints.$inferSelect;
type SlimRow = Omit<Row, "manifest">;

/** Every column but the large one, which `withManifests` reads where it is not at hand. */
const { manifest: _manifest, ...slimColumns } = getTableColumns(checkpoints);

/** Tensors that the paper leaves out of "non-embedding parameters". */
const embeddingNames = new Set(["model.embed_tokens.weight", "lm_head.weight"]);

export function createCheckpointStore(db: Database, blobRows: BlobRows, files: BlobFiles): CheckpointStore {
  const manifests = new ManifestCache();
  return {
    create: (checkpoint) => db.transaction((tx) => insertCheckpoint(tx, checkpoint, files)),
    get: (idOrName) => getCheckpoint(db, idOrName, manifests),
    async list({ limit, after, name, relation, parent }) {
      const position = after === undefined ? null : decodeCursor(after);
      const child = and(eq(checkpointParents.child, checkpoints.id), eq(checkpointParents.parent, parent ?? ""));
      const rows = await db
        .select(slimColumns)
        .from(checkpoints)
        .where(
          and(
            name === undefined ? undefined : eq(checkpoints.name, name),
            relation === undefined ? undefined : eq(checkpoints.relation, relation),
            parent === undefined
              ? undefined
              : exists(
                  db
                    .select({ one: sql`1` })
                    .from(checkpointParents)
                    .where(child),
                ),
            position === null
              ? undefined
              : or(
                  lt(checkpoints.createdAt, position.createdAt),
                  and(eq(checkpoints.createdAt, position.createdAt), lt(checkpoints.id, position.id)),
                ),
          ),
        )
        .orderBy(desc(checkpoints.createdAt), desc(checkpoints.id))
        .limit(limit + 1);
      const page = toPage(rows, limit);
      return { rows: await complete(db, page.rows, manifests), next: page.next };
    },
    async update(id, change, ifVersion) {
      const set = {
        ...(change.name === undefined ? {} : { name: change.name }),
        ...(change.metadata === undefined ? {} : { metadata: change.metadata }),
        version: sql`${checkpoints.version} + 1`,
      };
      const unchanged = ifVersion === undefined ? undefined : eq(checkpoints.version, ifVersion);
      const [row] = await db
        .update(checkpoints)
        .set(set)
        .where(and(eq(checkpoints.id, id), unchanged))
        .returning(slimColumns);
      if (row) return (await complete(db, [row], manifests))[0] as CheckpointRow;
      const present = await getCheckpoint(db, id, manifests);
      throw versionMismatch(id, present.version, ifVersion);
    },
    delete: (id, options) => db.transaction((tx) => deleteCheckpoint(tx, id, options)),
    async lineage(id) {
      const { ids, edges } = await lineageOf(db, (await getCheckpoint(db, id, manifests)).id);
      const rows = await db
        .select(slimColumns)
        .from(checkpoints)
        .where(inArray(checkpoints.id, ids))
        .orderBy(checkpoints.createdAt);
      return { nodes: await complete(db, rows, manifests), edges };
    },
    sharedBlobs: (id) => sharedWith(db, id),
    async resolve(row) {
      const blobs = await blobRows.locate([...blobsOfCheckpoint(row.manifest)]);
      return { id: row.id, manifest: row.manifest, blobs };
    },
  };
}

export function versionMismatch(id: string, present: number, wanted: number | undefined): CodedError {
  return new CodedError("precondition_failed", `${id} is at version ${present}, not at ${String(wanted)}`);
}

/** By id or newest of that name. @throws not_found */
export async function getCheckpoint(
  db: Database,
  idOrName: string,
  manifests = new ManifestCache(),
): Promise<CheckpointRow> {
  const which = isId(idOrName, "ckpt") ? eq(checkpoints.id, idOrName) : eq(checkpoints.name, idOrName);
  const newest = desc(checkpoints.createdAt);
  const rows = await db.select(slimColumns).from(checkpoints).where(which).orderBy(newest).limit(1);
  const [row] = await complete(db, rows, manifests);
  if (!row) throw new CodedError("not_found", `no checkpoint ${JSON.stringify(idOrName)}`);
  return row;
}

/**
 * Writes a checkpoint, its lineage and its blobs within a transaction.
 * @param alreadyGained blobs that the same transaction has written before
 * @throws conflict for a lost parent
 */
export async function insertCheckpoint(
  tx: Database,
  from: NewCheckpoint,
  files: BlobFiles,
  alreadyGained: ReadonlyMap<string, number> = new Map(),
): Promise<CheckpointRow> {
  const gained = new Map([...alreadyGained, ...(await insertBlobs(tx, from.blobs, files))]);
  const digests = blobsOfCheckpoint(from.manifest);
  const storedBytes = [...digests].reduce((sum, one) => sum + (gained.get(one) ?? 0), 0);
  const { name, manifest, digest, relation, tokensSeen, flopsSpent, dataSeen, receipt, metadata, job } = from;
  const id = newId("ckpt");
  const row: Row = {
    ...{ id, name, manifest, digest, relation, tokensSeen, flopsSpent, dataSeen, receipt, metadata, job },
    ...countsOf(manifest),
    storedBytes,
    version: 1,
    createdAt: new Date(),
  };
  await tx.insert(checkpoints).values(row);
  await setBlobRefs(tx, id, digests);
  const edges = from.parents.map((parent, position) => ({ child: id, parent, relation, position }));
  try {
    if (edges.length > 0) await tx.insert(checkpointParents).values(edges);
  } catch (error) {
    if (!isForeignKeyViolation(error)) throw error;
    throw new CodedError("conflict", `a parent of the new checkpoint is gone: ${from.parents.join(", ")}`);
  }
  return { ...row, parents: edges.map((edge) => ({ checkpoint: edge.parent, relation })) };
}

function countsOf(manifest: CheckpointManifest): {
  dtype: string;
  numParameters: number;
  numParametersNonEmbedding: number;
  sizeBytes: number;
} {
  const elementsOf = new Map<string, number>();
  let numParameters = 0;
  let embedding = 0;
  let sizeBytes = 0;
  for (const tensor of manifest.tensors) {
    const elements = tensor.shape.reduce((product, extent) => product * extent, 1);
    numParameters += elements;
    elementsOf.set(tensor.dtype, (elementsOf.get(tensor.dtype) ?? 0) + elements);
    if (embeddingNames.has(tensor.name)) embedding += elements;
    sizeBytes += tensor.sizeBytes;
  }
  // the most frequent of several
  const [dtype = "F32"] = [...elementsOf].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  return { dtype, numParameters, numParametersNonEmbedding: numParameters - embedding, sizeBytes };
}

/** Adds manifests and parents to rows; one that was deleted meanwhile is left out. */
async function complete(db: Database, rows: readonly SlimRow[], manifests: ManifestCache): Promise<CheckpointRow[]> {
  if (rows.length === 0) return [];
  const ids = rows.map((row) => row.id);
  const found = await findConstants(db, ids, manifests);
  return rows.flatMap((row) => {
    const constants = found.get(row.id);
    return constants ? [{ ...row, ...constants }] : [];
  });
}

async function findConstants(
  db: Database,
  ids: readonly string[],
  manifests: ManifestCache,
): Promise<Map<string, Constants>> {
  const found = new Map<string, Constants>();
  for (const id of ids) {
    const constants = manifests.get(id);
    if (constants) found.set(id, constants);
  }
  const missing = ids.filter((id) => !found.has(id));
  if (missing.length === 0) return found;
  const edges = await db
    .select()
    .from(checkpointParents)
    .where(inArray(checkpointParents.child, missing))
    .orderBy(checkpointParents.position);
  // After the edges: a checkpoint found here was there with all of its own, which came with it and go with it.
  const rows = await db
    .select({ id: checkpoints.id, manifest: checkpoints.manifest })
    .from(checkpoints)
    .where(inArray(checkpoints.id, missing));
  for (const { id, manifest } of rows) {
    const own = edges.filter(({ child }) => child === id);
    const constants = { manifest, parents: own.map(({ parent, relation }) => ({ checkpoint: parent, relation })) };
    manifests.set(id, constants);
    found.set(id, constants);
  }
  return found;
}
