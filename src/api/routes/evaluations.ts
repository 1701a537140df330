/** Benchmark tasks, evaluations of checkpoints by them, and the table of results. */
import { tasks } from "../../engine/eval/index.ts";
import type { Task } from "../../engine/eval/task.ts";
import type { EvaluationStore } from "../../engine/store/types.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import type { JobAnswers } from "../jobAnswers.ts";
import { presentAll, presentEvaluation, presentPage, presentResult } from "../present.ts";

type EvaluationOperations =
  "listBenchmarks" | "listBenchmarkResults" | "createEvaluation" | "listEvaluations" | "getEvaluation";

export function createEvaluationHandlers(deps: RouteDeps, answers: JobAnswers): HandlersOf<EvaluationOperations> {
  const { evaluations } = deps.store;
  return {
    listBenchmarks() {
      return { status: 200, body: presentAll(tasks.map(presentTask)) };
    },
    async listBenchmarkResults({ query }) {
      return { status: 200, body: presentAll((await evaluations.results(query)).map(presentTableRow)) };
    },
    createEvaluation: (call) => answers.submit("evaluation", call.body, call),
    async listEvaluations({ query }) {
      return { status: 200, body: presentPage(await evaluations.list(query), presentEvaluation) };
    },
    async getEvaluation({ path }) {
      return { status: 200, body: presentEvaluation(await evaluations.get(path.id)) };
    },
  };
}

function presentTask({ name, version, metrics, dataset }: Task): Schemas["Benchmark"] {
  return {
    ...{ name, version, metrics: [...metrics] },
    dataset: {
      repository: dataset.repository,
      config: dataset.config,
      split: dataset.split,
      num_docs: dataset.numDocs,
      file_names: [...dataset.fileNames],
      fields: dataset.fields,
    },
  };
}

function presentTableRow(row: Awaited<ReturnType<EvaluationStore["results"]>>[number]): Schemas["BenchmarkResult"] {
  return {
    checkpoint: row.checkpoint,
    checkpoint_name: row.checkpointName,
    evaluation: row.evaluation,
    ...presentResult(row),
    created_at: row.createdAt.toISOString(),
  };
}
