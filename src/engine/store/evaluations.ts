/** Evaluations: one row per request, its status that of its job, and one result row per task. */
import { and, asc, desc, eq, inArray, lt, or } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { BlobFiles } from "./blobs.ts";
import { insertBlobs, setBlobRefs } from "./blobs.ts";
import { decodeCursor, toPage } from "./cursor.ts";
import type { Database } from "./client.ts";
import { checkpoints, evaluationResults, evaluations, jobs } from "./schema.ts";
import { growthOperators, lineageOf } from "./lineage.ts";
import type { EvaluationResultRow, EvaluationRow, EvaluationStore, TableResult } from "./types.ts";

/** Results that a table is made of, at most. */
const maxTableResults = 20_000;

type ResultRow = typeof evaluationResults.$inferSelect;

export function createEvaluationStore(db: Database): EvaluationStore {
  const joined = () =>
    db
      .select({ evaluation: evaluations, status: jobs.status, error: jobs.error, jobVersion: jobs.version })
      .from(evaluations)
      .innerJoin(jobs, eq(jobs.id, evaluations.job));
  type Joined = Awaited<ReturnType<typeof joined>>[number];

  const complete = async (rows: readonly Joined[]): Promise<EvaluationRow[]> => {
    if (rows.length === 0) return [];
    const ids = rows.map((row) => row.evaluation.id);
    const results = await db
      .select()
      .from(evaluationResults)
      .where(inArray(evaluationResults.evaluation, ids))
      .orderBy(asc(evaluationResults.position));
    return rows.map(({ evaluation, status, error, jobVersion }) => ({
      ...evaluation,
      status,
      error,
      // the row shows its job's status, so it changes when the job does
      version: jobVersion,
      results: results.filter((result) => result.evaluation === evaluation.id).map(toResult),
    }));
  };

  return {
    async get(id) {
      const rows = await complete(await joined().where(eq(evaluations.id, id)).limit(1));
      const [row] = rows;
      if (!row) throw new CodedError("not_found", `no evaluation ${JSON.stringify(id)}`);
      return row;
    },
    async list({ limit, after, checkpoint }) {
      const position = after === undefined ? null : decodeCursor(after);
      const rows = await joined()
        .where(
          and(
            checkpoint === undefined ? undefined : eq(evaluations.checkpoint, checkpoint),
            position === null
              ? undefined
              : or(
                  lt(evaluations.createdAt, position.createdAt),
                  and(eq(evaluations.createdAt, position.createdAt), lt(evaluations.id, position.id)),
                ),
          ),
        )
        .orderBy(desc(evaluations.createdAt), desc(evaluations.id))
        .limit(limit + 1);
      return toPage(await complete(rows), limit);
    },
    results: (query) => tableResults(db, query),
  };
}

async function tableResults(
  db: Database,
  { checkpoint, lineage, task }: Parameters<EvaluationStore["results"]>[0],
): Promise<TableResult[]> {
  const related = lineage === undefined ? null : (await lineageOf(db, lineage)).ids;
  const rows = await db
    .select({
      result: evaluationResults,
      checkpoint: evaluations.checkpoint,
      checkpointName: checkpoints.name,
      numParameters: checkpoints.numParameters,
      tokensSeen: checkpoints.tokensSeen,
      flopsSpent: checkpoints.flopsSpent,
      createdAt: evaluations.createdAt,
    })
    .from(evaluationResults)
    .innerJoin(evaluations, eq(evaluations.id, evaluationResults.evaluation))
    .innerJoin(checkpoints, eq(checkpoints.id, evaluations.checkpoint))
    .where(
      and(
        checkpoint === undefined ? undefined : eq(evaluations.checkpoint, checkpoint),
        related === null ? undefined : inArray(evaluations.checkpoint, related),
        task === undefined ? undefined : eq(evaluationResults.task, task),
      ),
    )
    .orderBy(desc(evaluations.createdAt), desc(evaluations.id), asc(evaluationResults.position))
    .limit(maxTableResults);
  const operators = await growthOperators(db, [...new Set(rows.map((row) => row.checkpoint))]);
  return rows.map(({ result, ...rest }) => {
    const operator = operators.get(rest.checkpoint) ?? null;
    return { ...toResult(result), ...rest, operator, evaluation: result.evaluation };
  });
}

function toResult(row: ResultRow): EvaluationResultRow {
  const { task, taskVersion, numDocs, metrics, higherIsBetter, datasetDigest, settings, samples } = row;
  return { task, taskVersion, numDocs, metrics, higherIsBetter, datasetDigest, settings, samples };
}

/** Writes the results of an evaluation, and keeps its logs, within the transaction that ends its job. */
export async function insertResults(
  tx: Database,
  evaluation: string,
  results: readonly EvaluationResultRow[],
  files: BlobFiles,
): Promise<void> {
  if (results.length === 0) return;
  const logs = results.flatMap(({ samples }) => (samples ? [samples] : []));
  const blobs = logs.map(({ digest, sizeBytes }) => ({ digest, sizeBytes, external: null }));
  await insertBlobs(tx, blobs, files);
  await setBlobRefs(tx, evaluation, new Set(blobs.map(({ digest }) => digest)));
  await tx.insert(evaluationResults).values(results.map((result, position) => ({ evaluation, position, ...result })));
}
