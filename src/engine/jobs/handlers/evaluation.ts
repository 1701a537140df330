/** Scores a checkpoint on benchmark tasks, in a compute process, and stores one result per task. */
import { invariant } from "../../../ops/errors.ts";
import type { EvaluateResult } from "../../backends/work.ts";
import type { JsonObject } from "../../../ops/manifest.ts";
import type { EvaluationResultRow } from "../../store/types.ts";
import { pinBackend } from "../backendChoice.ts";
import { planEvaluation } from "../evaluationPlan.ts";
import type { Handler } from "../handler.ts";
import { collect } from "./collect.ts";

export const evaluation: Handler<"evaluation"> = async (request, context) => {
  const { store, settings } = context;
  const { evaluation: id } = request;
  invariant(id !== undefined, "the queue gave the evaluation a row");
  const row = await store.checkpoints.get(request.checkpoint);
  const backend = await pinBackend(request.backend ?? null, context);
  const checkpoint = await store.checkpoints.resolve(row);
  const work = await planEvaluation(request, checkpoint, settings.benchmarksDir, backend);
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
  return {
    evaluation: { id, results },
    result: () => ({ evaluation: id, metrics, backend }),
  };
};
