/** Checkpoints: registering, looking, renaming, deleting, lineage. Their files are in checkpointFiles.ts. */
import { CodedError } from "../../ops/errors.ts";
import type { CheckpointRow } from "../../engine/store/types.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import type { JobAnswers } from "../jobAnswers.ts";
import { etagOf, requireMatch } from "../middleware/etag.ts";
import { presentCheckpoint, presentPage } from "../present.ts";

type CheckpointOperations =
  | "createCheckpoint"
  | "listCheckpoints"
  | "getCheckpoint"
  | "updateCheckpoint"
  | "deleteCheckpoint"
  | "listCheckpointTensors"
  | "getCheckpointLineage";

export function createCheckpointHandlers(deps: RouteDeps, answers: JobAnswers): HandlersOf<CheckpointOperations> {
  const { checkpoints } = deps.store;
  return {
    createCheckpoint: (call) => answers.submit("checkpoint_import", call.body, call),
    async listCheckpoints({ query }) {
      return { status: 200, body: presentPage(await checkpoints.list(query), presentCheckpoint) };
    },
    async getCheckpoint({ path }) {
      return { status: 200, body: presentCheckpoint(await checkpoints.get(path.id)) };
    },
    async updateCheckpoint({ path, header, body }) {
      const row = await checkpoints.get(path.id);
      const changed = await checkpoints.update(row.id, body, versionToChange(row, header["If-Match"]));
      return { status: 200, body: presentCheckpoint(changed) };
    },
    async deleteCheckpoint({ path, query, header }) {
      const row = await checkpoints.get(path.id);
      const ifVersion = versionToChange(row, header["If-Match"]);
      const version = ifVersion === undefined ? {} : { ifVersion };
      const deleted = await checkpoints.delete(row.id, { cascade: query.cascade, ...version });
      deps.pool.drop(deleted);
      return { status: 200, body: { deleted: [...deleted] } };
    },
    async listCheckpointTensors({ path, query }) {
      const row = await checkpoints.get(path.id);
      return { status: 200, body: tensorPage(row, await checkpoints.sharedBlobs(row.id), query) };
    },
    async getCheckpointLineage({ path }) {
      const { nodes, edges } = await checkpoints.lineage((await checkpoints.get(path.id)).id);
      return { status: 200, body: { nodes: nodes.map(presentCheckpoint), edges: edges.map((edge) => ({ ...edge })) } };
    },
  };
}

/** @returns the version that a change must find, once `If-Match` has been satisfied. @throws precondition_failed */
function versionToChange(row: CheckpointRow, ifMatch: string | undefined): number | undefined {
  requireMatch(ifMatch, etagOf(JSON.stringify(presentCheckpoint(row))));
  return ifMatch === undefined ? undefined : row.version;
}

/** A page of the manifest; its cursor is a position in the model's order, which never changes. */
function tensorPage(
  row: CheckpointRow,
  shared: ReadonlySet<string>,
  { limit, after }: { limit: number; after?: string },
): Schemas["TensorList"] {
  const start = after === undefined ? 0 : Number(after);
  if (!/^\d{1,9}$/.test(after ?? "0")) {
    throw new CodedError("invalid_request", `after: ${JSON.stringify(after)} is not a cursor of this list`, {
      fields: [{ pointer: "/after", detail: "query parameter: want the `next` of the page before" }],
    });
  }
  const { tensors } = row.manifest;
  const data = tensors.slice(start, start + limit).map((tensor) => ({
    name: tensor.name,
    dtype: tensor.dtype,
    shape: [...tensor.shape],
    size_bytes: tensor.sizeBytes,
    sha256: tensor.sha256,
    shared: shared.has(tensor.blob),
  }));
  const next = start + limit < tensors.length ? String(start + limit) : null;
  return { data, has_more: next !== null, next };
}
