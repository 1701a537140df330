/** Datasets: building, looking, deleting. */
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";
import type { JobAnswers } from "../jobAnswers.ts";
import { etagOf, requireMatch } from "../middleware/etag.ts";
import { presentDataset, presentPage } from "../present.ts";

export function createDatasetHandlers(
  deps: RouteDeps,
  answers: JobAnswers,
): HandlersOf<"createDataset" | "listDatasets" | "getDataset" | "deleteDataset"> {
  const { datasets } = deps.store;
  return {
    createDataset: (call) => answers.submit("dataset_build", call.body, call),
    async listDatasets({ query }) {
      return { status: 200, body: presentPage(await datasets.list(query), presentDataset) };
    },
    async getDataset({ path }) {
      return { status: 200, body: presentDataset(await datasets.get(path.id)) };
    },
    async deleteDataset({ path, header }) {
      const row = await datasets.get(path.id);
      requireMatch(header["If-Match"], etagOf(JSON.stringify(presentDataset(row))));
      await datasets.delete(row.id, header["If-Match"] === undefined ? undefined : row.version);
      return { status: 200, body: { deleted: [row.id] } };
    },
  };
}
