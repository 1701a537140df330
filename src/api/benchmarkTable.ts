/**
 * The table of results: a row per checkpoint with the latest result on each task, beside the published rows; as
 * data, CSV or Markdown. Pure: rows of the store in, text or plain objects out.
 */
import { averageSets, benchmarkAverage, reportedMetrics, type AverageSet } from "../ops/planner/benchmarkAverage.ts";
import { publishedResults, type PublishedResult } from "../ops/planner/publishedResults.ts";
import type { TableResult } from "../engine/store/types.ts";
import type { Schemas } from "./handlers.ts";

export type TableRow = Schemas["BenchmarkRow"];

/** What a row must be to be shown; from the query of the request. */
export interface TableFilter {
  readonly task?: string | undefined;
  readonly operator?: string | undefined;
  readonly min_tokens?: number | undefined;
  readonly max_tokens?: number | undefined;
  readonly min_flops?: number | undefined;
  readonly max_flops?: number | undefined;
  readonly num_fewshot?: number | undefined;
  readonly bos?: string | undefined;
}

/** The metric of a task in the table, and whether it is shown as percent. */
const metricOf = (task: string): string => reportedMetrics[task] ?? "acc";
const isAccuracy = (task: string): boolean => metricOf(task).startsWith("acc");
const percent = 100;

/** @returns rows of checkpoints, from results that come newest first. */
export function checkpointRows(results: readonly TableResult[], filter: TableFilter, set: AverageSet): TableRow[] {
  const rows = new Map<string, { first: TableResult; scores: TableRow["scores"] }>();
  for (const result of results) {
    const { settings } = result;
    if (filter.num_fewshot !== undefined && settings["num_fewshot"] !== filter.num_fewshot) continue;
    if (filter.bos !== undefined && settings["bos"] !== filter.bos) continue;
    const row = rows.get(result.checkpoint) ?? { first: result, scores: {} };
    rows.set(result.checkpoint, row);
    row.scores[result.task] ??= score(result);
  }
  return [...rows.values()].map(({ first, scores }) => ({
    ...{ checkpoint: first.checkpoint, name: first.checkpointName, published: false, source: null },
    ...{ operator: first.operator, num_parameters: first.numParameters },
    ...{ tokens: first.tokensSeen, flops: first.flopsSpent },
    ...{ average: averageOf(scores, set), printed_average: null, scores },
  }));
}

function score(result: TableResult): Schemas["BenchmarkScore"] {
  const metric = metricOf(result.task);
  const stderr = result.metrics[`${metric}_stderr,none`];
  return {
    metric,
    value: result.metrics[`${metric},none`] ?? "N/A",
    stderr: typeof stderr === "number" ? stderr : null,
    evaluation: result.evaluation,
    num_docs: result.numDocs,
    dataset_digest: result.datasetDigest,
    settings: result.settings,
    created_at: result.createdAt.toISOString(),
  };
}

function averageOf(scores: TableRow["scores"], set: AverageSet): number | null {
  const values = Object.entries(scores).map(([task, { value }]) => {
    return [task, typeof value === "number" ? value : undefined] as const;
  });
  return benchmarkAverage(Object.fromEntries(values), set);
}

/** @returns the rows that others have published. */
export function publishedRows(filter: TableFilter, set: AverageSet): TableRow[] {
  return publishedResults
    .filter(({ scores }) => filter.task === undefined || filter.task in scores)
    .map((row) => publishedRow(row, filter.task, set));
}

function publishedRow(row: PublishedResult, task: string | undefined, set: AverageSet): TableRow {
  const shown = Object.entries(row.scores).filter(([name]) => task === undefined || name === task);
  const unknown = { evaluation: null, num_docs: null, dataset_digest: null, settings: null, created_at: null };
  const scores = shown.map(([name, value]) => {
    const fraction = isAccuracy(name) ? value / percent : value;
    return [name, { metric: metricOf(name), value: fraction, stderr: null, ...unknown }] as const;
  });
  const average = benchmarkAverage(row.scores, set);
  return {
    ...{ checkpoint: null, name: row.name, published: true, source: row.source, operator: row.operator },
    ...{ num_parameters: row.numParameters, tokens: row.tokens, flops: row.flops },
    average: average === null ? null : average / percent,
    printed_average: row.average === null ? null : row.average / percent,
    scores: Object.fromEntries(scores),
  };
}

/** @returns whether a row is shown; one without a value does not meet a bound on it. */
export function passes(row: TableRow, filter: TableFilter): boolean {
  const within = (value: number | null, min: number | undefined, max: number | undefined): boolean =>
    (min === undefined || (value !== null && value >= min)) && (max === undefined || (value !== null && value <= max));
  return (
    (filter.operator === undefined || row.operator === filter.operator) &&
    within(row.tokens, filter.min_tokens, filter.max_tokens) &&
    within(row.flops, filter.min_flops, filter.max_flops)
  );
}

/** What a table can be sorted by, beside tasks. */
export const sortColumns: readonly string[] = ["average", "name", "num_parameters", "tokens", "flops"];

/** @param sort a column or a task; with `-` the highest first */
export function sorted(rows: readonly TableRow[], sort: string): TableRow[] {
  const column = sort.replace(/^-/, "");
  const sign = sort.startsWith("-") ? -1 : 1;
  const valueOf = (row: TableRow): number | string | null => {
    if (column === "name") return row.name;
    const value = sortColumns.includes(column) ? row[column as "average"] : row.scores[column]?.value;
    return typeof value === "number" && Number.isFinite(value) ? value : null;
  };
  return rows
    .map((row) => ({ row, value: valueOf(row) }))
    .sort((a, b) => {
      if (a.value === null || b.value === null) return Number(a.value === null) - Number(b.value === null);
      return sign * (a.value < b.value ? -1 : a.value > b.value ? 1 : 0);
    })
    .map(({ row }) => row);
}

/** @returns the tasks that any row has, those of the average first. */
function tasksOf(rows: readonly TableRow[]): string[] {
  const present = new Set(rows.flatMap(({ scores }) => Object.keys(scores)));
  const known = Object.keys(reportedMetrics).filter((task) => present.has(task));
  return [...known, ...[...present].filter((task) => !known.includes(task)).sort()];
}

/** RFC 4180; fractions, a column for each task and its standard error; an absent value is an empty field. */
export function toCsv(rows: readonly TableRow[]): string {
  const tasks = tasksOf(rows);
  const facts = ["name", "checkpoint", "published", "source", "operator", "num_parameters", "tokens", "flops"] as const;
  const header = [...facts, "average", ...tasks.flatMap((task) => [task, `${task}_stderr`])];
  const lines = rows.map((row) => {
    const scores = tasks.flatMap((task) => [row.scores[task]?.value ?? "", row.scores[task]?.stderr ?? ""]);
    return [...facts.map((fact) => row[fact] ?? ""), row.average ?? "", ...scores].map(csvField).join(",");
  });
  return [header.join(","), ...lines, ""].join("\r\n");
}

function csvField(value: string | number | boolean): string {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Percent and perplexities with two digits, and what is published marked and named below. */
export function toMarkdown(rows: readonly TableRow[], set: AverageSet): string {
  const tasks = tasksOf(rows);
  const sources = [...new Set(rows.flatMap(({ source }) => (source === null ? [] : [source])))];
  const mark = (source: string | null): string => (source === null ? "" : ` [${sources.indexOf(source) + 1}]`);
  const header = ["model", ...tasks.map((task) => `${task} (${metricOf(task)})`), `average of ${set}`];
  const lines = rows.map((row) => {
    const name = (row.name ?? row.checkpoint ?? "").replaceAll("|", "\\|") + mark(row.source);
    const scores = tasks.map((task) => markdownScore(task, row.scores[task]));
    return [name, ...scores, row.average === null ? "" : (row.average * percent).toFixed(2)];
  });
  const table = [header, header.map((_, i) => (i === 0 ? "---" : "---:")), ...lines];
  const notes = sources.map((source, i) => `[${i + 1}] published: ${source}`);
  const over = `Accuracies in percent; the average runs over ${averageSets[set].join(", ")}.`;
  return [...table.map((cells) => `| ${cells.join(" | ")} |`), "", over, ...notes, ""].join("\n");
}

function markdownScore(task: string, found: Schemas["BenchmarkScore"] | undefined): string {
  if (!found) return "";
  const scale = isAccuracy(task) ? percent : 1;
  const shown = (value: number): string => (value * scale).toFixed(2);
  const value = typeof found.value === "number" ? shown(found.value) : found.value;
  return found.stderr === null ? value : `${value} ± ${shown(found.stderr)}`;
}
