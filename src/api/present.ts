/** Rows of the store as the contract shows them: snake_case, times as RFC 3339, nothing that is private. */
import type { MetricPoint } from "../ops/events.ts";
import type { ErrorRecord } from "../ops/errors.ts";
import type { CheckpointManifest, GrowthMask, JsonObject } from "../ops/manifest.ts";
import { waitingReason } from "../engine/jobs/waiting.ts";
import type {
  CheckpointRow,
  DatasetRow,
  EvaluationResultRow,
  EvaluationRow,
  JobEventRow,
  JobProgress,
  JobRow,
  KeyRow,
  Page,
} from "../engine/store/types.ts";
import type { WorkerRow } from "../engine/store/workerTypes.ts";
import type { Schemas } from "./handlers.ts";

/** @returns a page of rows as a list of the contract. */
export function presentPage<Row, Item>(page: Page<Row>, present: (row: Row) => Item) {
  return { data: page.rows.map(present), has_more: page.next !== null, next: page.next };
}

/** @returns all there is as a list of the contract. */
export function presentAll<Item>(data: Item[]) {
  return { data, has_more: false, next: null };
}

/** @returns the mask of a random growth in the contract's spelling. */
export function presentMask(mask: GrowthMask | null): Schemas["GrowthMask"] {
  return mask && { step: mask.step, ramp_steps: mask.rampSteps, stages: mask.stages };
}

export function presentCheckpoint(row: CheckpointRow): Schemas["Checkpoint"] {
  return {
    id: row.id,
    name: row.name,
    architecture: row.manifest.architecture,
    config: row.manifest.configJson,
    dtype: row.dtype,
    num_parameters: row.numParameters,
    num_parameters_non_embedding: row.numParametersNonEmbedding,
    size_bytes: row.sizeBytes,
    stored_bytes: row.storedBytes,
    tokens_seen: row.tokensSeen,
    flops_spent: row.flopsSpent,
    data_seen: { ...row.dataSeen },
    digest: row.digest,
    tokenizer: presentTokenizer(row.manifest),
    optimizer_state: row.manifest.optimizer !== null,
    growth_mask: presentMask(row.manifest.growthMask ?? null),
    relation: row.relation,
    parents: row.parents.map(({ checkpoint, relation }) => ({ checkpoint, relation })),
    receipt: row.receipt,
    job: row.job,
    metadata: row.metadata,
    created_at: row.createdAt.toISOString(),
  };
}

function presentTokenizer({ tokenizer, files }: CheckpointManifest): Schemas["Checkpoint"]["tokenizer"] {
  if (tokenizer === "bytes") return "bytes";
  const names = files.map(({ name }) => name).filter((name) => name !== "generation_config.json");
  return names.includes("tokenizer.json") ? { files: names } : null;
}

export function presentDataset(row: DatasetRow): Schemas["Dataset"] {
  const { manifest } = row;
  const { tokenizer } = manifest;
  return {
    id: row.id,
    name: row.name,
    tokenizer: tokenizer.kind === "bytes" ? "bytes" : { checkpoint: tokenizer.checkpoint },
    vocab_size: manifest.vocabSize,
    eos_token_id: manifest.eosTokenId,
    num_tokens: manifest.numTokens,
    num_validation_tokens: manifest.numValidationTokens,
    num_documents: manifest.numDocuments,
    num_validation_documents: manifest.numValidationDocuments,
    digest: manifest.digest,
    job: row.job,
    metadata: row.metadata,
    created_at: row.createdAt.toISOString(),
  };
}

/** @param workers those there are; looked at only where the job is queued */
export function presentJob(row: JobRow, workers: readonly WorkerRow[]): Schemas["Job"] {
  return {
    id: row.id,
    kind: row.kind as Schemas["JobKind"],
    status: row.status,
    waiting_reason: waitingReason(row, workers),
    ...(row.control === null ? {} : { stopping: row.control }),
    progress: presentProgress(row.progress),
    attempts: row.attempts,
    max_attempts: row.maxAttempts,
    request: row.request,
    result: row.result,
    error: row.error === null ? null : presentError(row.error),
    backend: row.backend,
    worker: row.worker,
    created_at: row.createdAt.toISOString(),
    started_at: row.startedAt?.toISOString() ?? null,
    finished_at: row.finishedAt?.toISOString() ?? null,
  };
}

function presentProgress(progress: JobProgress): Schemas["JobProgress"] {
  return {
    fraction: progress.fraction,
    ...(progress.steps === undefined ? {} : { steps: progress.steps }),
    ...(progress.totalSteps === undefined ? {} : { total_steps: progress.totalSteps }),
    ...(progress.tokens === undefined ? {} : { tokens: progress.tokens }),
    ...(progress.etaSeconds === undefined ? {} : { eta_seconds: progress.etaSeconds }),
    ...(progress.message === undefined ? {} : { message: progress.message }),
  };
}

function presentError(error: ErrorRecord): Schemas["JobError"] {
  return {
    code: error.code,
    message: error.message,
    ...(error.fields ? { errors: error.fields.map(({ pointer, detail }) => ({ pointer, detail })) } : {}),
    ...(error.details ? { details: error.details as JsonObject } : {}),
  };
}

export function presentEvent(row: JobEventRow): Schemas["JobEvent"] {
  return { seq: row.seq, type: row.type, data: row.data, created_at: row.createdAt.toISOString() };
}

export function presentPoint(point: MetricPoint): Schemas["MetricPoint"] {
  return {
    step: point.step,
    tokens: point.tokens,
    flops: point.flops,
    loss: point.loss,
    validation_loss: point.validationLoss,
    learning_rate: point.learningRate,
    grad_norm: point.gradNorm,
    tokens_per_second: point.tokensPerSecond,
  };
}

export function presentResult(row: EvaluationResultRow): Schemas["EvaluationResult"] {
  return {
    task: row.task,
    task_version: row.taskVersion,
    num_docs: row.numDocs,
    metrics: { ...row.metrics },
    higher_is_better: { ...row.higherIsBetter },
    dataset_digest: row.datasetDigest,
    settings: row.settings,
  };
}

export function presentEvaluation(row: EvaluationRow): Schemas["Evaluation"] {
  return {
    id: row.id,
    checkpoint: row.checkpoint,
    job: row.job,
    status: row.status,
    request: row.request,
    results: row.results.map(presentResult),
    error: row.error === null ? null : presentError(row.error),
    created_at: row.createdAt.toISOString(),
  };
}

export function presentKey(row: KeyRow): Schemas["Key"] {
  return {
    id: row.id,
    name: row.name,
    scopes: row.scopes as Schemas["Scope"][],
    created_at: row.createdAt.toISOString(),
    last_used_at: row.lastUsedAt?.toISOString() ?? null,
  };
}

export function presentWorker(row: WorkerRow): Schemas["Worker"] {
  const { compute = 0, prepare = 0 } = row.places;
  return {
    id: row.id,
    hostname: row.hostname,
    pid: row.pid,
    state: row.state,
    backends: row.backends.map(({ name, available, reason, device, memoryBytes }) => {
      return { name, available, reason, device, memory_bytes: memoryBytes };
    }),
    memory_bytes: row.memoryBytes,
    places: { compute, prepare },
    current_jobs: Object.values(row.running).flat(),
    started_at: row.startedAt.toISOString(),
    heartbeat_at: row.heartbeatAt.toISOString(),
  };
}
