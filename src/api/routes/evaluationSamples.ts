/** The log of samples of an evaluation: a page at a time as JSON, or the whole as JSONL, streamed as it is taken. */
import { CodedError } from "../../ops/errors.ts";
import { readSamplePage, streamSamples, type SampleLogFile, type SampleRecord } from "../../engine/eval/readSamples.ts";
import type { EvaluationRow, SampleLog } from "../../engine/store/types.ts";
import { negotiate } from "../accept.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import { etagOf, noneMatch } from "../middleware/etag.ts";
import { createGate } from "../middleware/limits.ts";

/** Downloads open at once. */
const maxDownloads = 100;
/** One form under the two names that clients have for it. */
const jsonl = ["application/jsonl", "application/x-ndjson"] as const;

interface TaskLog extends SampleLogFile {
  readonly task: string;
}

export function createEvaluationSampleHandlers(deps: RouteDeps): HandlersOf<"listEvaluationSamples"> {
  const { evaluations, blobs } = deps.store;
  const gate = createGate(maxDownloads, "downloads of samples");
  return {
    async listEvaluationSamples({ path, query, header, request, signal }) {
      const form = negotiate(request, ["application/json", ...jsonl]);
      const found = logsOf(await evaluations.get(path.id), query.task);
      const located = await blobs.locate(found.map(({ log }) => log.digest));
      const logs = found.map(({ task, log }): TaskLog => {
        const location = located[log.digest];
        if (!location) throw new CodedError("store_unavailable", `the samples of ${task} are not in the store`);
        return { task, path: location.path, sizeBytes: log.sizeBytes };
      });
      if (form === "application/json") return { status: 200, body: await pageOf(logs, query.after, query.limit) };
      // The logs are blobs named by their content: the whole is known by their names, unread.
      const ETag = etagOf([form, ...found.map(({ log }) => log.digest)].join(" "));
      if (noneMatch(header["If-None-Match"], ETag)) return new Response(null, { status: 304, headers: { ETag } });
      const headers = { "Content-Type": form, "Content-Length": String(totalBytes(logs)), ETag };
      if (request.method === "HEAD") return new Response(null, { headers });
      return new Response(streamSamples(logs, { signal, onEnd: gate.enter() }), { headers });
    },
  };
}

const totalBytes = (logs: readonly SampleLogFile[]): number => logs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);

/** @throws conflict before the evaluation has succeeded, not_found for a task it has no log of */
function logsOf(row: EvaluationRow, task: string | undefined): { task: string; log: SampleLog }[] {
  if (row.status !== "succeeded") {
    throw new CodedError("conflict", `${row.id} is ${row.status}; it has samples when it has succeeded`);
  }
  const results = row.results.filter((result) => task === undefined || result.task === task);
  const logs = results.flatMap(({ task: name, samples }) => (samples ? [{ task: name, log: samples }] : []));
  if (logs.length > 0) return logs;
  const there = row.results.flatMap((result) => (result.samples ? [result.task] : []));
  const has = there.length > 0 ? `it has those of ${there.join(", ")}` : "it was made before there were any";
  throw new CodedError("not_found", `${row.id} has no samples${task === undefined ? "" : ` of ${task}`}; ${has}`);
}

/** A cursor names a task and a byte of its log. */
async function pageOf(
  logs: readonly TaskLog[],
  after: string | undefined,
  limit: number,
): Promise<Schemas["EvaluationSampleList"]> {
  let { index, start } = placeOf(logs, after);
  const data: SampleRecord[] = [];
  for (let log = logs[index]; log && data.length < limit; log = logs[index]) {
    const page = await readSamplePage(log, start, limit - data.length);
    data.push(...page.samples);
    start = page.end;
    if (start < log.sizeBytes) break;
    index += 1;
    start = 0;
  }
  const log = logs[index];
  const next = log ? `${log.task}.${start}` : null;
  return { data: data.map(presentSample), has_more: next !== null, next };
}

function placeOf(logs: readonly TaskLog[], after: string | undefined): { index: number; start: number } {
  if (after === undefined) return { index: 0, start: 0 };
  const [, task, start] = /^([a-z][a-z0-9_]*)\.([0-9]{1,15})$/.exec(after) ?? [];
  const index = logs.findIndex((log) => log.task === task);
  if (index >= 0) return { index, start: Number(start) };
  const detail = "is not the cursor of a page of these samples";
  throw new CodedError("invalid_request", `after: ${detail}`, { fields: [{ pointer: "/after", detail }] });
}

function presentSample(sample: SampleRecord): Schemas["EvaluationSample"] {
  const metrics = Object.entries(sample.metrics).map(([name, value]) => {
    return [name, Array.isArray(value) ? [...(value as readonly (number | string)[])] : value] as const;
  });
  return {
    ...sample,
    log_likelihoods: [...sample.log_likelihoods],
    is_greedy: [...sample.is_greedy],
    metrics: Object.fromEntries(metrics) as Schemas["EvaluationSample"]["metrics"],
  };
}
