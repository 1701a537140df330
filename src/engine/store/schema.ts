/**
 * Every table of the database, for PGlite and PostgreSQL alike; `migrations/` is generated from it. JSON is
 * kept in `json`, not `jsonb`: nothing is searched inside it, and `json` keeps key order and any legal text.
 * FLOPs are double precision (they pass 2^63), counts are bigint read as JavaScript numbers. Every time is
 * written by the process, in milliseconds, so that a cursor names a row exactly.
 */
import {
  bigint,
  boolean,
  doublePrecision,
  foreignKey,
  index,
  integer,
  json,
  pgTable,
  primaryKey,
  text,
  timestamp,
} from "./drizzle.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { TrainingState } from "../../ops/events.ts";
import type { CheckpointManifest, DatasetManifest, JsonObject, JsonValue } from "../../ops/manifest.ts";
import type { JobProgress, JobStatus, Relation, SampleLog, StoredResponse } from "./types.ts";
import type { WorkerBackend } from "./workerTypes.ts";

const time = (name: string) => timestamp(name, { withTimezone: true, precision: 3, mode: "date" });
const count = (name: string) => bigint(name, { mode: "number" });

export const blobs = pgTable("blobs", {
  /** SHA-256 of the bytes, lowercase hex. */
  digest: text("digest").primaryKey(),
  sizeBytes: count("size_bytes").notNull(),
  /** Null: a file of the blob directory; else a file registered by reference. */
  path: text("path"),
  mtimeMs: doublePrecision("mtime_ms"),
  createdAt: time("created_at").notNull(),
});

/** Who needs a blob: the owner is a checkpoint, a dataset, an evaluation (its logs) or a job (its resume point). */
export const blobRefs = pgTable(
  "blob_refs",
  {
    owner: text("owner").notNull(),
    digest: text("digest")
      .notNull()
      .references(() => blobs.digest),
  },
  (table) => [primaryKey({ columns: [table.owner, table.digest] }), index("blob_refs_digest").on(table.digest)],
);

export const checkpoints = pgTable(
  "checkpoints",
  {
    id: text("id").primaryKey(),
    name: text("name"),
    manifest: json("manifest").$type<CheckpointManifest>().notNull(),
    digest: text("digest").notNull(),
    dtype: text("dtype").notNull(),
    numParameters: count("num_parameters").notNull(),
    numParametersNonEmbedding: count("num_parameters_non_embedding").notNull(),
    sizeBytes: count("size_bytes").notNull(),
    storedBytes: count("stored_bytes").notNull(),
    tokensSeen: count("tokens_seen").notNull(),
    flopsSpent: doublePrecision("flops_spent").notNull(),
    dataSeen: json("data_seen").$type<Record<string, number>>().notNull(),
    relation: text("relation").$type<Relation>().notNull(),
    receipt: json("receipt").$type<JsonObject>(),
    metadata: json("metadata").$type<JsonObject>().notNull(),
    job: text("job"),
    version: integer("version").notNull(),
    createdAt: time("created_at").notNull(),
  },
  (table) => [
    index("checkpoints_created").on(table.createdAt, table.id),
    index("checkpoints_name").on(table.name, table.createdAt),
  ],
);

export const checkpointParents = pgTable(
  "checkpoint_parents",
  {
    child: text("child").notNull(),
    parent: text("parent").notNull(),
    relation: text("relation").$type<Relation>().notNull(),
    position: integer("position").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.child, table.parent] }),
    index("checkpoint_parents_parent").on(table.parent),
    foreignKey({ columns: [table.child], foreignColumns: [checkpoints.id] }).onDelete("cascade"),
    foreignKey({ columns: [table.parent], foreignColumns: [checkpoints.id] }),
  ],
);

export const datasets = pgTable(
  "datasets",
  {
    id: text("id").primaryKey(),
    name: text("name").notNull(),
    manifest: json("manifest").$type<DatasetManifest>().notNull(),
    metadata: json("metadata").$type<JsonObject>().notNull(),
    job: text("job"),
    version: integer("version").notNull(),
    createdAt: time("created_at").notNull(),
  },
  (table) => [
    index("datasets_created").on(table.createdAt, table.id),
    index("datasets_name").on(table.name, table.createdAt),
  ],
);

export const jobs = pgTable(
  "jobs",
  {
    id: text("id").primaryKey(),
    kind: text("kind").notNull(),
    status: text("status").$type<JobStatus>().notNull(),
    request: json("request").$type<JsonObject>().notNull(),
    progress: json("progress").$type<JobProgress>().notNull(),
    result: json("result").$type<JsonObject>(),
    error: json("error").$type<ErrorRecord>(),
    /** Times the job was claimed: also the fence, since only the holder of the latest attempt may write. */
    attempts: integer("attempts").notNull(),
    /** Failures in a row without a resume point in between; the job fails for good at `maxAttempts`. */
    failures: integer("failures").notNull(),
    maxAttempts: integer("max_attempts").notNull(),
    control: text("control").$type<"cancel" | "pause">(),
    resume: json("resume").$type<TrainingState>(),
    backend: text("backend"),
    worker: text("worker"),
    /** Memory that its model takes, about; null where that is not known or does not matter. */
    needsBytes: count("needs_bytes"),
    /** The queue entry that may start this job; any other is stale. */
    queueEntry: text("queue_entry"),
    /** The queue of that entry; which workers look into it is the queue's affair (jobs/selector.ts). */
    selector: text("selector"),
    /** From when on the entry may be taken: what waits is ordered by it, across all queues. */
    queuedAt: time("queued_at"),
    lastSeq: integer("last_seq").notNull(),
    version: integer("version").notNull(),
    createdAt: time("created_at").notNull(),
    startedAt: time("started_at"),
    finishedAt: time("finished_at"),
  },
  (table) => [
    index("jobs_created").on(table.createdAt, table.id),
    index("jobs_status").on(table.status, table.createdAt),
    index("jobs_waiting").on(table.status, table.selector, table.queuedAt),
  ],
);

/** The whole request of a job whose request is too long for its row; only an attempt reads it. */
export const jobPayloads = pgTable("job_payloads", {
  job: text("job")
    .primaryKey()
    .references(() => jobs.id, { onDelete: "cascade" }),
  request: json("request").$type<JsonObject>().notNull(),
});

/** What a job has done so far, in pieces that a later attempt goes on from; they go when it ends. */
export const jobParts = pgTable(
  "job_parts",
  {
    job: text("job")
      .notNull()
      .references(() => jobs.id, { onDelete: "cascade" }),
    seq: integer("seq").notNull(),
    data: json("data").$type<JsonObject>().notNull(),
  },
  (table) => [primaryKey({ columns: [table.job, table.seq] })],
);

/** Checkpoints and datasets that a job reads; they are not deletable while it may run. */
export const jobUses = pgTable(
  "job_uses",
  {
    job: text("job")
      .notNull()
      .references(() => jobs.id, { onDelete: "cascade" }),
    resource: text("resource").notNull(),
  },
  (table) => [primaryKey({ columns: [table.job, table.resource] }), index("job_uses_resource").on(table.resource)],
);

export const jobEvents = pgTable(
  "job_events",
  {
    job: text("job")
      .notNull()
      .references(() => jobs.id, { onDelete: "cascade" }),
    seq: integer("seq").notNull(),
    type: text("type").$type<"status" | "log" | "progress" | "metrics" | "checkpoint">().notNull(),
    data: json("data").$type<JsonValue>().notNull(),
    createdAt: time("created_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.job, table.seq] }),
    index("job_events_type").on(table.job, table.type, table.seq),
  ],
);

export const evaluations = pgTable(
  "evaluations",
  {
    id: text("id").primaryKey(),
    checkpoint: text("checkpoint")
      .notNull()
      .references(() => checkpoints.id, { onDelete: "cascade" }),
    job: text("job")
      .notNull()
      .references(() => jobs.id, { onDelete: "cascade" }),
    request: json("request").$type<JsonObject>().notNull(),
    version: integer("version").notNull(),
    createdAt: time("created_at").notNull(),
  },
  (table) => [
    index("evaluations_created").on(table.createdAt, table.id),
    index("evaluations_checkpoint").on(table.checkpoint, table.createdAt),
    index("evaluations_job").on(table.job),
  ],
);

export const evaluationResults = pgTable(
  "evaluation_results",
  {
    evaluation: text("evaluation")
      .notNull()
      .references(() => evaluations.id, { onDelete: "cascade" }),
    position: integer("position").notNull(),
    task: text("task").notNull(),
    taskVersion: text("task_version").notNull(),
    numDocs: integer("num_docs").notNull(),
    metrics: json("metrics").$type<Record<string, number | string>>().notNull(),
    higherIsBetter: json("higher_is_better").$type<Record<string, boolean>>().notNull(),
    datasetDigest: text("dataset_digest").notNull(),
    settings: json("settings").$type<JsonObject>().notNull(),
    /** The log of samples; null for evaluations of before there was one. */
    samples: json("samples").$type<SampleLog>(),
  },
  (table) => [primaryKey({ columns: [table.evaluation, table.task] }), index("evaluation_results_task").on(table.task)],
);

export const apiKeys = pgTable("api_keys", {
  id: text("id").primaryKey(),
  name: text("name").notNull(),
  scopes: json("scopes").$type<string[]>().notNull(),
  /** SHA-256 of the secret, lowercase hex; the secret itself is nowhere. */
  hash: text("hash").notNull().unique(),
  createdAt: time("created_at").notNull(),
  lastUsedAt: time("last_used_at"),
});

export const idempotency = pgTable(
  "idempotency",
  {
    key: text("key").notNull(),
    /** Principal and route. */
    scope: text("scope").notNull(),
    bodyDigest: text("body_digest").notNull(),
    /** Null while the first caller is still at work. */
    response: json("response").$type<StoredResponse>(),
    createdAt: time("created_at").notNull(),
  },
  (table) => [primaryKey({ columns: [table.key, table.scope] }), index("idempotency_created").on(table.createdAt)],
);

/** Heartbeats are the one time that the database's clock gives: workers on several machines are compared by it. */
export const workers = pgTable("workers", {
  id: text("id").primaryKey(),
  hostname: text("hostname").notNull(),
  pid: integer("pid").notNull(),
  embedded: boolean("embedded").notNull(),
  backends: json("backends").$type<WorkerBackend[]>().notNull(),
  memoryBytes: count("memory_bytes").notNull(),
  /** What it has at hand that some jobs need. */
  needs: json("needs").$type<string[]>().notNull(),
  /** Lane -> jobs at once. */
  places: json("places").$type<Record<string, number>>().notNull(),
  /** Lane -> ids of the jobs that it runs. */
  running: json("running").$type<Record<string, string[]>>().notNull(),
  startedAt: time("started_at").notNull(),
  heartbeatAt: time("heartbeat_at").notNull(),
});
