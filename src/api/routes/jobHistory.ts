/**
 * What happened in a job: its events as a list or as a stream that follows it live, and its curve as JSON or CSV.
 * A stream reads the store page by page as the client takes events, so a slow client costs nothing but its place.
 */
import type { JobEventRow, JobStore } from "../../engine/store/types.ts";
import { negotiate } from "../accept.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import { hasEnded } from "../jobAnswers.ts";
import { createGate } from "../middleware/limits.ts";
import { presentEvent, presentPoint } from "../present.ts";
import { eventStream, type ServerEvent } from "../sse.ts";

/** Streams open at once. */
const maxStreams = 500;
/** Events read from the store at once. */
const pageEvents = 100;
/** The job is looked at again at least so often, ms. */
const lookAgainMs = 5_000;

export function createJobHistoryHandlers(deps: RouteDeps): HandlersOf<"listJobEvents" | "getJobMetrics"> {
  const { jobs } = deps.store;
  const gate = createGate(maxStreams, "event streams");
  return {
    async listJobEvents({ path, query, header, request, signal }) {
      const form = negotiate(request, ["application/json", "text/event-stream"]);
      await jobs.get(path.id);
      const after = header["Last-Event-ID"] ?? query.after;
      if (form === "text/event-stream") {
        const start = { job: path.id, after, type: query.type };
        if (request.method === "HEAD") return new Response(null, { headers: { "Content-Type": form } });
        return eventStream((gone) => followJob(jobs, start, gone), signal, { onEnd: gate.enter() });
      }
      const type = query.type === undefined ? {} : { type: query.type };
      const rows = await jobs.events(path.id, { after, limit: query.limit + 1, ...type });
      return { status: 200, body: eventPage(rows, query.limit) };
    },
    async getJobMetrics({ path, request }) {
      const form = negotiate(request, ["application/json", "text/csv"]);
      await jobs.get(path.id);
      const points = (await jobs.metrics(path.id)).map(presentPoint);
      if (form === "application/json") return { status: 200, body: { data: points } };
      return new Response(toCsv(points), { headers: { "Content-Type": "text/csv; charset=utf-8; header=present" } });
    },
  };
}

function eventPage(rows: readonly JobEventRow[], limit: number): Schemas["JobEventList"] {
  const data = rows.slice(0, limit).map(presentEvent);
  const last = data.at(-1);
  const next = rows.length > limit && last ? String(last.seq) : null;
  return { data, has_more: next !== null, next };
}

/** Every event after `after`, as it comes, until the job has ended or `signal` is aborted. */
async function* followJob(
  jobs: JobStore,
  { job, after, type }: { job: string; after: number; type: JobEventRow["type"] | undefined },
  signal: AbortSignal,
): AsyncGenerator<ServerEvent> {
  const filter = type === undefined ? {} : { type };
  let seen = after;
  while (!signal.aborted) {
    // in this order nothing is missed: wake-up, then status, then events
    const changed = jobs.changed(job, lookAgainMs, signal);
    const ended = hasEnded(await jobs.get(job));
    const rows = await jobs.events(job, { after: seen, limit: pageEvents, ...filter });
    for (const row of rows) {
      yield { id: String(row.seq), event: row.type, data: JSON.stringify(presentEvent(row)) };
      seen = row.seq;
    }
    if (rows.length === pageEvents) continue;
    if (ended) return;
    await changed;
  }
}

const columns = [
  "step",
  "tokens",
  "flops",
  "loss",
  "validation_loss",
  "learning_rate",
  "grad_norm",
  "tokens_per_second",
] as const satisfies readonly (keyof Schemas["MetricPoint"])[];

/** RFC 4180; an absent value is an empty field. */
function toCsv(points: readonly Schemas["MetricPoint"][]): string {
  const lines = points.map((point) => columns.map((column) => point[column] ?? "").join(","));
  return [columns.join(","), ...lines, ""].join("\r\n");
}
