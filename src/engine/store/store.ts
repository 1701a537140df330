/**
 * The store as one object: what the API reads (types.ts) and what the runner writes. Built once, by the
 * composition root, on a database that client.ts opened.
 */
import { sql } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { BlobFiles, BlobPath, BlobRows } from "./blobs.ts";
import { createBlobRows, sharedFiles } from "./blobs.ts";
import { createChanges } from "./changes.ts";
import { createCheckpointStore } from "./checkpoints.ts";
import type { DatabaseClient } from "./client.ts";
import { createDatasetStore } from "./datasets.ts";
import { createEvaluationStore } from "./evaluations.ts";
import { guarded } from "./failures.ts";
import { createIdempotencyStore } from "./idempotency.ts";
import { createJobStore } from "./jobs.ts";
import type { JobWriter } from "./jobTypes.ts";
import { createJobWriter } from "./jobWriter.ts";
import { createKeyStore } from "./keys.ts";
import type { Store } from "./types.ts";
import type { WorkerWriter } from "./workers.ts";
import { createWorkerStore } from "./workers.ts";

/** The store with the writes that only the engine makes. */
export interface EngineStore extends Store {
  readonly blobs: BlobRows;
  readonly workers: WorkerWriter;
  readonly work: JobWriter;
}

/** A worker silent for so long is lost, unless settings say otherwise. */
const defaultLostAfterSeconds = 15;

/**
 * @param blobFiles where the file of a digest lies (engine/checkpoint knows; the store must not)
 * @param lostAfterSeconds a worker silent for so long is lost; the same in all processes on one database
 */
export function createStore(
  client: DatabaseClient,
  blobFiles: BlobPath | BlobFiles,
  lostAfterSeconds = defaultLostAfterSeconds,
): EngineStore {
  const files = typeof blobFiles === "function" ? sharedFiles(blobFiles) : blobFiles;
  const { db } = client;
  const changes = createChanges();
  const blobs = guarded(createBlobRows(db, files));
  return {
    kind: client.kind,
    blobs,
    checkpoints: guarded(createCheckpointStore(db, blobs, files)),
    datasets: guarded(createDatasetStore(db, blobs, files)),
    jobs: guarded(createJobStore(db, changes)),
    work: guarded(createJobWriter(db, files, changes, lostAfterSeconds)),
    evaluations: guarded(createEvaluationStore(db)),
    keys: guarded(createKeyStore(db)),
    idempotency: guarded(createIdempotencyStore(db)),
    workers: guarded(createWorkerStore(db, lostAfterSeconds)),
    ping: (timeoutMs) => ping(client, timeoutMs),
    close: () => client.close(),
  };
}

async function ping(client: DatabaseClient, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const error = new CodedError("store_unavailable", `the database did not answer within ${timeoutMs} ms`);
    timer = setTimeout(() => reject(error), timeoutMs);
  });
  const asked = client.db.execute(sql`select 1`).then(
    () => undefined,
    (error: unknown) => {
      throw new CodedError("store_unavailable", "the database does not answer", { cause: error });
    },
  );
  try {
    await Promise.race([asked, late]);
  } finally {
    clearTimeout(timer);
    asked.catch(() => undefined);
  }
}
