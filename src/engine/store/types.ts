/**
 * The rows of the store as the rest of the engine and the API see them, and the interface of the store.
 * Times are Dates; counts are JavaScript numbers (below 2^53). Nothing here knows SQL.
 */
import type { ErrorRecord } from "../../ops/errors.ts";
import type { MetricPoint, NewBlob, TrainingState } from "../../ops/events.ts";
import type {
  BlobLocation,
  CheckpointManifest,
  DatasetManifest,
  JsonObject,
  JsonValue,
  ResolvedCheckpoint,
  ResolvedDataset,
} from "../../ops/manifest.ts";
import type { EvaluationStore } from "./evaluationTypes.ts";
import type { WorkerStore } from "./workerTypes.ts";

export type { EvaluationResultRow, EvaluationRow, EvaluationStore, SampleLog, TableResult } from "./evaluationTypes.ts";

export type Relation = "imported" | "initialized" | "grown" | "trained";

export interface CheckpointRow {
  readonly id: string;
  readonly name: string | null;
  readonly manifest: CheckpointManifest;
  readonly digest: string;
  readonly dtype: string;
  readonly numParameters: number;
  readonly numParametersNonEmbedding: number;
  /** Bytes of all tensors as they download. */
  readonly sizeBytes: number;
  /** Bytes that only this checkpoint keeps in the blob directory when it was made. */
  readonly storedBytes: number;
  readonly tokensSeen: number;
  readonly flopsSpent: number;
  /** Dataset id -> tokens of its training stream already consumed by this checkpoint's lineage. */
  readonly dataSeen: Readonly<Record<string, number>>;
  readonly parents: readonly { checkpoint: string; relation: Relation }[];
  readonly relation: Relation;
  readonly receipt: JsonObject | null;
  readonly metadata: JsonObject;
  readonly job: string | null;
  readonly version: number;
  readonly createdAt: Date;
}

export interface NewCheckpoint {
  readonly name: string | null;
  readonly manifest: CheckpointManifest;
  readonly digest: string;
  readonly relation: Relation;
  /** Empty for imported and initialized ones. */
  readonly parents: readonly string[];
  readonly tokensSeen: number;
  readonly flopsSpent: number;
  readonly dataSeen: Readonly<Record<string, number>>;
  readonly receipt: JsonObject | null;
  readonly metadata: JsonObject;
  readonly job: string | null;
  /** Blobs that the manifest needs and the store may not know yet. */
  readonly blobs: readonly NewBlobRow[];
}

export interface NewBlobRow extends NewBlob {
  /** Null: a file of the blob directory. Else a file registered by reference. */
  readonly external: { readonly path: string; readonly mtimeMs: number } | null;
}

export interface DatasetRow {
  readonly id: string;
  readonly name: string;
  readonly manifest: DatasetManifest;
  readonly metadata: JsonObject;
  readonly job: string | null;
  readonly version: number;
  readonly createdAt: Date;
}

export const jobStatuses = ["queued", "running", "paused", "succeeded", "failed", "cancelled"] as const;
export type JobStatus = (typeof jobStatuses)[number];

export interface JobProgress {
  readonly fraction: number;
  readonly steps?: number;
  readonly totalSteps?: number;
  readonly tokens?: number;
  readonly etaSeconds?: number | null;
  readonly message?: string;
}

export interface JobRow {
  readonly id: string;
  readonly kind: string;
  readonly status: JobStatus;
  readonly request: JsonObject;
  readonly progress: JobProgress;
  /** Null until the job succeeded. */
  readonly result: JsonObject | null;
  readonly error: ErrorRecord | null;
  readonly attempts: number;
  readonly maxAttempts: number;
  /** What a user asked of a running job and the runner has not yet done. */
  readonly control: "cancel" | "pause" | null;
  readonly resume: TrainingState | null;
  readonly backend: string | null;
  readonly worker: string | null;
  /** Memory that its model takes, about; null where that is not known or does not matter. */
  readonly needsBytes: number | null;
  /** The queue it waits in (jobs/selector.ts). */
  readonly selector: string | null;
  /** From when on it may be taken. */
  readonly queuedAt: Date | null;
  readonly version: number;
  readonly createdAt: Date;
  readonly startedAt: Date | null;
  readonly finishedAt: Date | null;
}

export interface JobEventRow {
  /** From 1, without gaps, per job: the SSE id. */
  readonly seq: number;
  readonly type: "status" | "log" | "progress" | "metrics" | "checkpoint";
  readonly data: JsonValue;
  readonly createdAt: Date;
}

export interface KeyRow {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly string[];
  readonly createdAt: Date;
  readonly lastUsedAt: Date | null;
}

/** Newest first. `after` is the opaque cursor of the page before. */
export interface ListQuery {
  readonly limit: number;
  readonly after?: string;
}

export interface Page<Row> {
  readonly rows: readonly Row[];
  readonly next: string | null;
}

export interface CheckpointStore {
  create(checkpoint: NewCheckpoint): Promise<CheckpointRow>;
  /** By id, or by name (the newest of that name). @throws not_found */
  get(idOrName: string): Promise<CheckpointRow>;
  list(query: ListQuery & { name?: string; relation?: Relation; parent?: string }): Promise<Page<CheckpointRow>>;
  /** @throws precondition_failed when `ifVersion` is given and not the row's. */
  update(
    id: string,
    change: { name?: string | null; metadata?: JsonObject },
    ifVersion?: number,
  ): Promise<CheckpointRow>;
  /**
   * Deletes a checkpoint; with `cascade` its descendants too. Blobs no longer referred to are swept later.
   * @throws conflict with the ids in `details.children` when it has children and not cascade, or is in use by
   *   a queued or running job.
   */
  delete(id: string, options: { cascade: boolean; ifVersion?: number }): Promise<readonly string[]>;
  /** All ancestors and descendants, with edges. */
  lineage(id: string): Promise<{
    nodes: readonly CheckpointRow[];
    edges: readonly { parent: string; child: string; relation: Relation }[];
  }>;
  /** Tells which blobs of a checkpoint are referred to by others too. */
  sharedBlobs(id: string): Promise<ReadonlySet<string>>;
  resolve(row: CheckpointRow): Promise<ResolvedCheckpoint>;
}

export interface BlobStoreRows {
  locate(digests: readonly string[]): Promise<Readonly<Record<string, BlobLocation>>>;
  /** Digests in the store that nothing refers to; they are removed from the table, the caller unlinks them. */
  takeOrphans(): Promise<readonly string[]>;
  known(digests: readonly string[]): Promise<ReadonlySet<string>>;
}

export interface DatasetStore {
  create(dataset: {
    id?: string;
    name: string;
    manifest: DatasetManifest;
    metadata: JsonObject;
    job: string | null;
    blobs: readonly NewBlobRow[];
  }): Promise<DatasetRow>;
  get(idOrName: string): Promise<DatasetRow>;
  list(query: ListQuery): Promise<Page<DatasetRow>>;
  /** @throws conflict when a queued or running job uses it. */
  delete(id: string, ifVersion?: number): Promise<void>;
  resolve(row: DatasetRow): Promise<ResolvedDataset>;
}

export interface JobStore {
  get(id: string): Promise<JobRow>;
  list(query: ListQuery & { kind?: string; status?: JobStatus }): Promise<Page<JobRow>>;
  events(id: string, query: { after: number; limit: number; type?: string }): Promise<readonly JobEventRow[]>;
  /** The curve, one point per step in order; of steps made twice (a resume), the later. */
  metrics(id: string): Promise<readonly MetricPoint[]>;
  /** Resolves when something about the job may have changed, or after timeoutMs. */
  changed(id: string, timeoutMs: number, signal?: AbortSignal): Promise<void>;
}

export interface KeyStore {
  /** The secret is shown once. */
  create(name: string, scopes: readonly string[]): Promise<{ key: KeyRow; secret: string }>;
  /** Null when unknown. */
  verify(secret: string): Promise<KeyRow | null>;
  list(): Promise<readonly KeyRow[]>;
  delete(id: string): Promise<void>;
  count(): Promise<number>;
}

/** What was answered under an Idempotency-Key. */
export interface StoredResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export interface IdempotencyStore {
  /**
   * Claims a key for (principal, route). @returns null when this caller is the first and must `finish` or
   * `release`; else the stored answer. @throws idempotency_conflict, idempotency_mismatch
   */
  begin(key: string, scope: string, bodyDigest: string): Promise<StoredResponse | null>;
  finish(key: string, scope: string, response: StoredResponse): Promise<void>;
  release(key: string, scope: string): Promise<void>;
  /** Forgets answers older than 24 h and claims older than 10 min. */
  sweep(): Promise<void>;
}

export interface Store {
  readonly kind: "pglite" | "postgres";
  readonly checkpoints: CheckpointStore;
  readonly blobs: BlobStoreRows;
  readonly datasets: DatasetStore;
  readonly jobs: JobStore;
  readonly evaluations: EvaluationStore;
  readonly keys: KeyStore;
  readonly idempotency: IdempotencyStore;
  readonly workers: WorkerStore;
  /** Fails when the database does not answer in time. */
  ping(timeoutMs: number): Promise<void>;
  close(): Promise<void>;
}
