/** Benchmark tasks and what of them is here, evaluations of checkpoints by them, and the table of results. */
import { CodedError } from "../../ops/errors.ts";
import { averageSets, reportedMetrics } from "../../ops/planner/benchmarkAverage.ts";
import { findTask, tasks } from "../../engine/eval/index.ts";
import type { Task } from "../../engine/eval/task.ts";
import { taskAvailability, type TaskAvailability } from "../../engine/jobs/taskData.ts";
import { negotiate } from "../accept.ts";
import { checkpointRows, passes, publishedRows, sortColumns, sorted, toCsv, toMarkdown } from "../benchmarkTable.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import type { JobAnswers } from "../jobAnswers.ts";
import { etagOf, noneMatch } from "../middleware/etag.ts";
import { presentAll, presentEvaluation, presentPage } from "../present.ts";

type EvaluationOperations =
  "listBenchmarks" | "listBenchmarkResults" | "createEvaluation" | "listEvaluations" | "getEvaluation";

export function createEvaluationHandlers(deps: RouteDeps, answers: JobAnswers): HandlersOf<EvaluationOperations> {
  const { evaluations } = deps.store;
  return {
    async listBenchmarks() {
      const found = await Promise.all(
        tasks.map(async (task) => presentTask(task, await taskAvailability(task, deps.settings))),
      );
      return { status: 200, body: presentAll(found) };
    },
    async listBenchmarkResults({ query, header, request }) {
      const form = negotiate(request, ["application/json", "text/csv", "text/markdown"]);
      const { checkpoint, lineage, task, average, sort, limit } = query;
      const column = sort.replace(/^-/, "");
      if (!sortColumns.includes(column) && findTask(column) === null) {
        throw badQuery("sort", `is ${sort}; ${[...sortColumns, ...Object.keys(reportedMetrics)].join(", ")} are known`);
      }
      const ofOne = checkpoint !== undefined || lineage !== undefined;
      const own = checkpointRows(await evaluations.results(given({ checkpoint, lineage, task })), query, average);
      const others = ofOne || !query.published ? [] : publishedRows(query, average);
      const rows = sorted(
        [...own, ...others].filter((row) => passes(row, query)),
        sort,
      );
      const first = offsetOf(query.after);
      const data = rows.slice(first, first + limit);
      const known = header["If-None-Match"];
      if (form === "text/csv") return text(toCsv(data), "text/csv; charset=utf-8; header=present", known);
      if (form === "text/markdown") return text(toMarkdown(data, average), "text/markdown; charset=utf-8", known);
      const next = first + limit < rows.length ? String(first + limit) : null;
      return {
        status: 200,
        body: { average_over: [...averageSets[average]], data, has_more: next !== null, next },
      };
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

/** @param known the client's `If-None-Match` */
function text(body: string, type: string, known: string | undefined): Response {
  const ETag = etagOf(body);
  if (noneMatch(known, ETag)) return new Response(null, { status: 304, headers: { ETag } });
  return new Response(body, { headers: { "Content-Type": type, ETag } });
}

function badQuery(name: string, detail: string): CodedError {
  return new CodedError("invalid_request", `${name}: ${detail}`, { fields: [{ pointer: `/${name}`, detail }] });
}

/** The cursor of a table that is sorted anew each time is a number of rows. */
function offsetOf(after: string | undefined): number {
  if (after === undefined) return 0;
  if (/^[1-9][0-9]{0,8}$/.test(after)) return Number(after);
  throw badQuery("after", "is not a cursor of this table");
}

/** Without the fields that are undefined. */
function given<Fields extends Record<string, string | undefined>>(fields: Fields): { [Name in keyof Fields]?: string } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof Fields]?: string;
  };
}

function presentTask(task: Task, data: TaskAvailability): Schemas["Benchmark"] {
  const { name, version, metrics, dataset } = task;
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
    data: {
      available: data.directory !== null || data.hub.length > 0,
      directory: data.directory,
      hub: data.hub.map(({ repository, config, split, revision, commit, digest, numDocs }) => {
        return { repository, config, split, revision, commit, digest, num_docs: numDocs };
      }),
      fewshot: data.fewshot,
    },
  };
}
