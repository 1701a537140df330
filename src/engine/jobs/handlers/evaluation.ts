/**
 * Scores a checkpoint on benchmark tasks, in a compute process, and stores one result per task with its log of
 * samples. Docs that have to come from the hub are fetched first. What was scored is kept in pieces, so that an
 * attempt after a crash asks the model about the rest only.
 */
import { invariant } from "../../../ops/errors.ts";
import type { EvaluateResult, TaskData } from "../../backends/work.ts";
import type { JsonObject } from "../../../ops/manifest.ts";
import type { HubData } from "../../eval/hubData.ts";
import type { EvaluationResultRow } from "../../store/types.ts";
import { pinBackend } from "../backendChoice.ts";
import { planEvaluation } from "../evaluationPlan.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { EvaluationRequest } from "../requests.ts";
import { findTaskData, hubTaskData, shotsSplit, uploadsOf } from "../taskData.ts";
import { removeUploads } from "../uploads.ts";
import { collect } from "./collect.ts";

export const evaluation: Handler<"evaluation"> = async (request, context) => {
  const { store, settings, job } = context;
  const { evaluation: id } = request;
  invariant(id !== undefined, "the queue gave the evaluation a row");
  const row = await store.checkpoints.get(request.checkpoint);
  const backend = await pinBackend(context);
  const tasks = await dataOf(request, context);
  if (tasks === null) return "stopped";
  const work = planEvaluation(request, {
    ...{ tasks, backend, blobDir: settings.blobDir },
    checkpoint: await store.checkpoints.resolve(row),
    done: await store.work.parts(job.id),
  });
  const made = await collect<EvaluateResult>(
    context.compute({ kind: "evaluate", backend, work }),
    context,
    undefined,
    (part) => context.keepPart(part),
  );
  if (made === null) return "stopped";
  const results = made.result.results.map(({ version, samples, ...rest }): EvaluationResultRow => ({
    ...rest,
    taskVersion: version,
    samples: samples ? { ...samples.blob, numSamples: samples.numSamples } : null,
  }));
  const metrics: JsonObject = Object.fromEntries(results.map((result) => [result.task, { ...result.metrics }]));
  const uploads = uploadsOf(request);
  return {
    evaluation: { id, results },
    result: () => ({ evaluation: id, metrics, backend }),
    ...(uploads.length > 0 ? { afterwards: () => removeUploads(settings.uploadsDir, uploads) } : {}),
  };
};

/** @returns the files of every task, those of the hub fetched; null where the job was asked to stop meanwhile */
async function dataOf(request: EvaluationRequest, context: HandlerContext): Promise<TaskData[] | null> {
  const { settings } = context;
  const requested = await findTaskData(request, settings);
  const found: TaskData[] = [];
  for (const { task, source, data } of requested) {
    if (data !== null || source.type !== "hub") {
      invariant(data !== null, `${task.name} has files or is had from the hub`);
      found.push(data);
      continue;
    }
    const shots = (request.num_fewshot ?? 0) > 0 ? shotsSplit(task) : null;
    const { hubEndpoint: endpoint, hubToken: token, hubTimeoutMs: timeoutMs, taskDataDir: cacheDir } = settings;
    const work = {
      ...{ task: task.name, splits: [task.dataset.split, ...(shots === null ? [] : [shots])] },
      ...{ revision: source.revision ?? null, endpoint, token, timeoutMs, cacheDir },
    };
    const made = await collect<HubData[]>(context.compute({ kind: "task_data", work }), context);
    if (made === null) return null;
    const [docs, examples = null] = made.result;
    invariant(docs !== undefined, "the docs were fetched");
    found.push(hubTaskData(task, cacheDir, docs, examples));
  }
  return found;
}
