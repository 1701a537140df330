/**
 * Lineage as a graph in SQL: ancestors and descendants of a checkpoint, and deletion, which must look at
 * descendants, at jobs that read any of them, and at nothing that may change meanwhile.
 */
import { and, eq, inArray } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import { blobRefs, checkpointParents, checkpoints, evaluations, jobs, jobUses } from "./schema.ts";
import type { Database } from "./client.ts";
import type { JobStatus, Relation } from "./types.ts";

/** Checkpoints in one lineage that a query follows at most. */
const maxLineage = 10_000;

const unfinished: JobStatus[] = ["queued", "running", "paused"];

export interface Edge {
  readonly parent: string;
  readonly child: string;
  readonly relation: Relation;
}

/** @returns ids of `id`, its ancestors and its descendants, and the edges between them. */
export async function lineageOf(db: Database, id: string): Promise<{ ids: string[]; edges: Edge[] }> {
  const up = await follow(db, id, "child", "parent");
  const down = await follow(db, id, "parent", "child");
  const ids = [...new Set([id, ...up, ...down])];
  const among = and(inArray(checkpointParents.child, ids), inArray(checkpointParents.parent, ids));
  const edges = await db.select().from(checkpointParents).where(among).orderBy(checkpointParents.position);
  return { ids, edges: edges.map(({ parent, child, relation }) => ({ parent, child, relation })) };
}

async function follow(db: Database, id: string, from: "parent" | "child", to: "parent" | "child"): Promise<string[]> {
  const found = new Set<string>([id]);
  let front = [id];
  while (front.length > 0) {
    const rows = await db
      .select({ next: checkpointParents[to] })
      .from(checkpointParents)
      .where(inArray(checkpointParents[from], front));
    front = [...new Set(rows.map((row) => row.next))].filter((next) => !found.has(next));
    for (const next of front) found.add(next);
    if (found.size > maxLineage) {
      throw new CodedError("unprocessable", `the lineage of ${id} has more than ${maxLineage} checkpoints`);
    }
  }
  found.delete(id);
  return [...found];
}

/**
 * The operator of the latest growth that each checkpoint descends from, by first parents.
 * @returns checkpoint -> operator; none for those that were never grown
 */
export async function growthOperators(db: Database, ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  // where each checkpoint's walk has got to
  let walks = new Map(ids.map((id) => [id, id]));
  for (let depth = 0; walks.size > 0 && depth < maxLineage; depth++) {
    const at = [...new Set(walks.values())];
    const rows = await db
      .select({ id: checkpoints.id, relation: checkpoints.relation, receipt: checkpoints.receipt })
      .from(checkpoints)
      .where(inArray(checkpoints.id, at));
    const edges = await db
      .select()
      .from(checkpointParents)
      .where(and(inArray(checkpointParents.child, at), eq(checkpointParents.position, 0)));
    const byId = new Map(rows.map((row) => [row.id, row]));
    const parentOf = new Map(edges.map((edge) => [edge.child, edge.parent]));
    const next = new Map<string, string>();
    for (const [id, place] of walks) {
      const row = byId.get(place);
      const operator = row?.relation === "grown" ? row.receipt?.["operator"] : undefined;
      const parent = parentOf.get(place);
      if (typeof operator === "string") found.set(id, operator);
      else if (parent !== undefined) next.set(id, parent);
    }
    walks = next;
  }
  return found;
}

/**
 * Deletes a checkpoint, and with `cascade` what descends from it, within a transaction.
 * @returns the ids deleted @throws not_found, precondition_failed, conflict
 */
export async function deleteCheckpoint(
  tx: Database,
  id: string,
  options: { cascade: boolean; ifVersion?: number },
): Promise<string[]> {
  // the row is held: a job that wants to read it (key share) waits until this transaction has ended
  const [row] = await tx
    .select({ version: checkpoints.version })
    .from(checkpoints)
    .where(eq(checkpoints.id, id))
    .for("update");
  if (!row) throw new CodedError("not_found", `no checkpoint ${JSON.stringify(id)}`);
  if (options.ifVersion !== undefined && options.ifVersion !== row.version) {
    throw new CodedError("precondition_failed", `${id} is at version ${row.version}, not at ${options.ifVersion}`);
  }
  const descendants = await follow(tx, id, "parent", "child");
  if (descendants.length > 0 && !options.cascade) {
    const message = `${id} has descendants: ${descendants.slice(0, 5).join(", ")}; delete them first, or with cascade`;
    throw new CodedError("conflict", message, { details: { children: descendants } });
  }
  const ids = [id, ...descendants];
  await tx
    .select({ id: checkpoints.id })
    .from(checkpoints)
    .where(inArray(checkpoints.id, ids))
    .orderBy(checkpoints.id)
    .for("update");
  await assertUnused(tx, ids);
  const measured = await tx
    .select({ id: evaluations.id })
    .from(evaluations)
    .where(inArray(evaluations.checkpoint, ids));
  const owners = [...ids, ...measured.map((evaluation) => evaluation.id)];
  await tx.delete(blobRefs).where(inArray(blobRefs.owner, owners));
  await tx.delete(checkpointParents).where(inArray(checkpointParents.child, ids));
  await tx.delete(checkpoints).where(inArray(checkpoints.id, ids));
  return ids;
}

/** @throws conflict when an unfinished job reads one of these checkpoints or datasets */
export async function assertUnused(tx: Database, resources: readonly string[]): Promise<void> {
  const users = await tx
    .select({ job: jobUses.job, resource: jobUses.resource })
    .from(jobUses)
    .innerJoin(jobs, eq(jobs.id, jobUses.job))
    .where(and(inArray(jobUses.resource, [...resources]), inArray(jobs.status, unfinished)))
    .limit(1);
  const [user] = users;
  if (!user) return;
  throw new CodedError("conflict", `${user.resource} is in use by ${user.job}`, { details: { job: user.job } });
}

/** Holds rows that a new job reads against deletion, until the transaction ends. @throws not_found */
export async function holdCheckpoint(tx: Database, id: string): Promise<void> {
  const [row] = await tx
    .select({ id: checkpoints.id })
    .from(checkpoints)
    .where(eq(checkpoints.id, id))
    .for("key share");
  if (!row) throw new CodedError("not_found", `no checkpoint ${JSON.stringify(id)}`);
}
