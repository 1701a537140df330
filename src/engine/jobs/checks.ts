/**
 * What is checked before a job is queued, so that a request that cannot succeed is refused at once: that ids
 * exist, that sizes fit together, that a growth has a plan. Names become ids. What only the work itself can
 * find out (a corrupt file, a full disk) is left to the job.
 */
import { plannedMoments, planGrowth } from "../../ops/growth/index.ts";
import { CodedError, type ErrorCode } from "../../ops/errors.ts";
import { tokenizerOf, type JsonObject } from "../../ops/manifest.ts";
import { parseLlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import { confine } from "../checkpoint/confine.ts";
import type { Settings } from "../settings.ts";
import type { EngineStore } from "../store/store.ts";
import type { CheckpointRow, DatasetRow } from "../store/types.ts";
import type { WorkerBackend } from "../store/workerTypes.ts";
import { bytesVocabSize } from "../tokenizer/bytesTokenizer.ts";
import { assertKnown } from "./backendChoice.ts";
import { checkEvaluation, evaluationBytes } from "./evaluationPlan.ts";
import { checkFit, fitBytes, fitDataset } from "./fitPlan.ts";
import { checkTraining, trainingBytes } from "./trainingPlan.ts";
import type {
  DatasetRequest,
  GrowthRequest,
  ImportRequest,
  JobKind,
  JobRequests,
  TokenizerChoice,
} from "./requests.ts";
import { pickBackend, selectorOf } from "./selector.ts";
import { findUploads } from "./uploads.ts";

/** Share of the documents held out unless asked otherwise. */
export const defaultValidationFraction = 0.01;

export interface CheckContext {
  readonly store: EngineStore;
  readonly settings: Settings;
  /** What computes here; null where jobs run in workers, which come and go: then a job may wait for one. */
  readonly backends: readonly WorkerBackend[] | null;
}

export interface CheckedRequest<Kind extends JobKind> {
  readonly request: JobRequests[Kind];
  /** Ids of what the job reads; the first is the request's own. */
  readonly checkpoints: readonly string[];
  readonly datasets: readonly string[];
  /** Memory that the model takes, about; absent where it does not matter. */
  readonly needsBytes?: number;
}

type Checks = {
  [Kind in JobKind]: (request: JobRequests[Kind], context: CheckContext) => Promise<CheckedRequest<Kind>>;
};

const checks: Checks = {
  checkpoint_import: checkImport,
  growth: checkGrowth,
  dataset_build: checkDataset,
  training: async (request, context) => {
    const checkpoint = await findCheckpoint(context, request.checkpoint, "/checkpoint");
    const dataset = await findDataset(context, request.dataset, "/dataset");
    checkTraining(request, checkpoint, dataset);
    const needsBytes = trainingBytes(request, checkpoint);
    await checkBackend("training", request, needsBytes, context);
    const resolved = { ...request, checkpoint: checkpoint.id, dataset: dataset.id };
    return { request: resolved, checkpoints: [checkpoint.id], datasets: [dataset.id], needsBytes };
  },
  evaluation: async (request, context) => {
    const checkpoint = await findCheckpoint(context, request.checkpoint, "/checkpoint");
    await checkEvaluation(request, checkpoint, context.settings);
    const needsBytes = evaluationBytes(request, checkpoint, context.backends);
    await checkBackend("evaluation", request, needsBytes, context);
    const { evaluation: _given, ...asked } = request;
    return { request: { ...asked, checkpoint: checkpoint.id }, checkpoints: [checkpoint.id], datasets: [], needsBytes };
  },
};

/** @throws not_found, invalid_request, unprocessable, forbidden, conflict; with pointers into the request */
export function checkRequest<Kind extends JobKind>(
  kind: Kind,
  request: JobRequests[Kind],
  context: CheckContext,
): Promise<CheckedRequest<Kind>> {
  return checks[kind](request, context);
}

async function checkImport(
  request: ImportRequest,
  context: CheckContext,
): Promise<CheckedRequest<"checkpoint_import">> {
  const { source } = request;
  const { settings } = context;
  if (source.type === "directory") await confineAt(source.path, settings);
  if (source.type === "upload") await findUploads(settings.uploadsDir, source.upload);
  if (source.type !== "random") return { request, checkpoints: [], datasets: [] };
  const { vocabSize } = await at("/source/config", "invalid_request", () => parseLlamaConfig(source.config));
  const tokenizer = await checkTokenizer(source.tokenizer, "/source/tokenizer", context);
  if (tokenizer.choice === "bytes" && vocabSize < bytesVocabSize) {
    const detail = `is ${vocabSize}; the tokenizer "bytes" has ${bytesVocabSize} tokens, each of which needs a row`;
    throw pointed("unprocessable", "/source/config/vocab_size", detail);
  }
  const resolved = { ...source, ...(tokenizer.choice === undefined ? {} : { tokenizer: tokenizer.choice }) };
  return { request: { ...request, source: resolved }, checkpoints: tokenizer.checkpoints, datasets: [] };
}

async function checkGrowth(request: GrowthRequest, context: CheckContext): Promise<CheckedRequest<"growth">> {
  const source = await findCheckpoint(context, request.checkpoint, "/checkpoint");
  const plan = planGrowth(source.manifest, request);
  const wanted = fitDataset(plan);
  const dataset = wanted === null ? null : await findDataset(context, wanted, "/params/dataset");
  const needsBytes = dataset === null ? undefined : fitBytes(plan);
  if (dataset !== null && needsBytes !== undefined) {
    checkFit(plan, dataset);
    await checkBackend("growth", request, needsBytes, context, "/params/backend");
  }
  if (request.optimizer_state === "grow") {
    if (source.manifest.optimizer === null) {
      throw pointed("unprocessable", "/optimizer_state", `is grow, but ${source.id} has no optimizer state`);
    }
    if (source.manifest.optimizer.firstMoments.length < source.manifest.tensors.length) {
      throw pointed("unprocessable", "/optimizer_state", `is grow, but ${source.id} has that of trained tensors only`);
    }
    plannedMoments(plan);
  }
  const data = dataset === null ? {} : { params: { ...request.params, dataset: dataset.id } };
  return {
    request: { ...request, ...data, checkpoint: source.id },
    checkpoints: [source.id],
    datasets: dataset === null ? [] : [dataset.id],
    ...(needsBytes === undefined ? {} : { needsBytes }),
  };
}

async function checkDataset(request: DatasetRequest, context: CheckContext): Promise<CheckedRequest<"dataset_build">> {
  const { source } = request;
  if (source.type === "directory") await confineAt(source.path, context.settings);
  if (source.type === "upload") await findUploads(context.settings.uploadsDir, source.upload);
  const fraction = request.validation_fraction ?? defaultValidationFraction;
  if (!(fraction >= 0 && fraction < 1)) {
    throw pointed("invalid_request", "/validation_fraction", `is ${fraction}; wanted 0 to below 1`);
  }
  const tokenizer = await checkTokenizer(request.tokenizer, "/tokenizer", context);
  const resolved = { ...request, tokenizer: tokenizer.choice ?? request.tokenizer };
  return { request: resolved, checkpoints: tokenizer.checkpoints, datasets: [] };
}

async function checkTokenizer(
  choice: TokenizerChoice | undefined,
  pointer: string,
  context: CheckContext,
): Promise<{ choice: TokenizerChoice | undefined; checkpoints: string[] }> {
  if (choice === undefined || choice === "bytes") return { choice, checkpoints: [] };
  const checkpoint = await findCheckpoint(context, choice.checkpoint, `${pointer}/checkpoint`);
  const tokenizer = tokenizerOf(checkpoint.id, checkpoint.manifest);
  if (tokenizer === null) throw pointed("unprocessable", `${pointer}/checkpoint`, `${checkpoint.id} has no tokenizer`);
  if (tokenizer.kind === "bytes") return { choice: "bytes", checkpoints: [] };
  return { choice: { checkpoint: checkpoint.id }, checkpoints: [checkpoint.id] };
}

function findCheckpoint({ store }: CheckContext, id: string, pointer: string): Promise<CheckpointRow> {
  return at(pointer, "not_found", () => store.checkpoints.get(id));
}

function findDataset({ store }: CheckContext, id: string, pointer: string): Promise<DatasetRow> {
  return at(pointer, "not_found", () => store.datasets.get(id));
}

async function confineAt(path: string, settings: Settings): Promise<void> {
  await at("/source/path", null, () => confine(path, settings.importRoots));
}

async function checkBackend(
  kind: JobKind,
  request: object,
  needsBytes: number,
  { backends }: CheckContext,
  pointer = "/backend",
): Promise<void> {
  const selector = selectorOf({ kind, request: request as JsonObject, backend: null, needsBytes });
  await at(pointer, null, () => {
    if (selector.backend !== null && selector.backend !== "auto") assertKnown([selector.backend]);
    if (backends !== null) pickBackend(selector, backends);
  });
}

/** Gives an error the pointer to the field it is about, and, where `code` is given, that code. */
async function at<T>(pointer: string, code: ErrorCode | null, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CodedError) || error.code === "store_unavailable") throw error;
    // What reads a configuration knows which of its fields it is about.
    const { field } = error.details;
    const within = pointer.endsWith("/config") && typeof field === "string" ? `/${field}` : "";
    const fields = [{ pointer: pointer + within, detail: error.message }];
    throw new CodedError(code ?? error.code, error.message, { fields, details: error.details, cause: error });
  }
}

/** An error about one field of the request. */
export function pointed(code: ErrorCode, pointer: string, detail: string): CodedError {
  return new CodedError(code, `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}
