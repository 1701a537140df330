/** Jobs as readers see them: rows, events, the training curve. What a runner writes is in jobWriter.ts. */
import { and, asc, desc, eq, gt, lt, or } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { MetricPoint } from "../../ops/events.ts";
import type { Changes } from "./changes.ts";
import { pointFromJson } from "./curve.ts";
import { decodeCursor, toPage } from "./cursor.ts";
import type { Database } from "./client.ts";
import { jobEvents, jobs } from "./schema.ts";
import type { JobEventRow, JobRow, JobStore } from "./types.ts";

/** Points of one curve that are read at once, to bound memory. */
const metricsBatch = 5_000;

export function createJobStore(db: Database, changes: Changes): JobStore {
  return {
    get: (id) => getJob(db, id),
    async list({ limit, after, kind, status }) {
      const position = after === undefined ? null : decodeCursor(after);
      const rows = await db
        .select()
        .from(jobs)
        .where(
          and(
            kind === undefined ? undefined : eq(jobs.kind, kind),
            status === undefined ? undefined : eq(jobs.status, status),
            position === null
              ? undefined
              : or(
                  lt(jobs.createdAt, position.createdAt),
                  and(eq(jobs.createdAt, position.createdAt), lt(jobs.id, position.id)),
                ),
          ),
        )
        .orderBy(desc(jobs.createdAt), desc(jobs.id))
        .limit(limit + 1);
      return toPage(rows, limit);
    },
    events: (id, query) => readEvents(db, id, query),
    metrics: (id) => readMetrics(db, id),
    changed: (id, timeoutMs, signal) => changes.wait(id, timeoutMs, signal),
  };
}

/** @throws not_found */
export async function getJob(db: Database, id: string): Promise<JobRow> {
  const [row] = await db.select().from(jobs).where(eq(jobs.id, id)).limit(1);
  if (!row) throw new CodedError("not_found", `no job ${JSON.stringify(id)}`);
  return row;
}

async function readEvents(
  db: Database,
  id: string,
  { after, limit, type }: { after: number; limit: number; type?: string },
): Promise<JobEventRow[]> {
  const ofType = type === undefined ? undefined : eq(jobEvents.type, type as JobEventRow["type"]);
  return db
    .select({ seq: jobEvents.seq, type: jobEvents.type, data: jobEvents.data, createdAt: jobEvents.createdAt })
    .from(jobEvents)
    .where(and(eq(jobEvents.job, id), gt(jobEvents.seq, after), ofType))
    .orderBy(asc(jobEvents.seq))
    .limit(limit);
}

/** A step and its validation pass are two events and one point; of a step made twice the later values hold. */
async function readMetrics(db: Database, id: string): Promise<MetricPoint[]> {
  const points = new Map<number, MetricPoint>();
  for (let after = 0; ;) {
    const events = await readEvents(db, id, { after, limit: metricsBatch, type: "metrics" });
    for (const event of events) {
      const point = pointFromJson(event.data);
      const present = points.get(point.step);
      points.set(point.step, present ? merge(present, point) : point);
    }
    const last = events.at(-1);
    if (!last || events.length < metricsBatch) break;
    after = last.seq;
  }
  return [...points.values()].sort((a, b) => a.step - b.step);
}

function merge(earlier: MetricPoint, later: MetricPoint): MetricPoint {
  const known = Object.entries(later).filter(([, value]) => value !== null);
  return { ...earlier, ...Object.fromEntries(known) };
}
