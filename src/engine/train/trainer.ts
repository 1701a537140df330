/**
 * Training, as a stream of events. Each turn of the loop is one optimizer update, then whatever is due after
 * it: validation, a metric, progress, a save. State is only ever written between updates. Nothing here is
 * random (no dropout, no shuffling), so the seed of a training has no part in it, and the same work gives the
 * same bytes, run through or stopped and resumed.
 *
 * Tokens are counted as trained: updates x batch tokens. FLOPs are the paper's 6 N D (`ops/planner/flops.ts`).
 */
import type { MetricPoint, WorkEvent } from "../../ops/events.ts";
import { CodedError } from "../../ops/errors.ts";
import { isMasked } from "../../ops/growth/index.ts";
import { trainingFlops } from "../../ops/planner/flops.ts";
import type { TrainWork } from "../backends/work.ts";
import { createBatchLoader } from "../data/loader.ts";
import type { BatchLoader } from "../data/loader.ts";
import type { Kernels } from "../kernels/kernels.ts";
import type { DeriveWeights, MicroBatch } from "./loss.ts";
import { toMicroBatch } from "./loss.ts";
import { deferredUpdates } from "./deferredUpdates.ts";
import { localGradients } from "./gradients.ts";
import { maskedBytes } from "./deriveModel.ts";
import { Pace } from "./pace.ts";
import { startRun } from "./resume.ts";
import type { Run } from "./run.ts";
import { disposeRun } from "./run.ts";
import { resultEvent, savedEvent } from "./saveEvents.ts";
import { learningRateAt } from "./schedule.ts";
import { assertFinite } from "./step.ts";
import { planThreads } from "./threads.ts";
import type { ThreadOptions, ThreadPlan } from "./threads.ts";
import { immediateUpdates, type UpdateOutcome, type Updates } from "./updates.ts";
import { validationLoss } from "./validate.ts";

/** Progress is told no more often than this; metrics are told at every step. */
const progressEveryMs = 250;
/** An id and the one that follows it. */
const leastValidationTokens = 2;

export interface TrainOptions {
  /** Bytes the backend has for tensors, or null when unknown. */
  readonly memoryBytes: number | null;
  /** Further threads to compute gradients with; absent for none. */
  readonly threads?: ThreadOptions;
  /** Milliseconds from any origin. */
  readonly now?: () => number;
  /** What is trained are not the weights of the configuration's model but tensors that they are made of. */
  readonly derive?: DeriveWeights;
}

/** What follows from the request, once. */
interface Plan extends ThreadPlan {
  readonly totalSteps: number;
  readonly sequences: number;
}

/**
 * Runs `work` from its start or its resume point. Aborting `signal` ends it after the micro-batch under way,
 * with a `saved` event (unless nothing was done since the last) and `stopped`.
 * @throws unprocessable, model_too_large, dataset_invalid, diverged, storage_full
 */
export async function* train(
  work: TrainWork,
  kernels: Kernels,
  signal: AbortSignal,
  options: TrainOptions,
): AsyncGenerator<WorkEvent, void, undefined> {
  const plan = planRun(work, options);
  const now = options.now ?? (() => performance.now());
  const started = await startRun(work, kernels, plan.microSequences);
  const run: Run = options.derive ? { ...started, derive: options.derive } : started;
  let loader: BatchLoader | null = null;
  let updates: Updates | null = null;
  try {
    yield { type: "log", level: "info", message: startMessage(work, plan, run) };
    const before = work.resume?.numerics?.kernels ?? kernels.name;
    if (sameBytes(before) !== sameBytes(kernels.name)) yield otherKernels(before, kernels.name);
    loader = createBatchLoader(work.dataset, { sequenceLength: work.sequenceLength, position: run.progress.position });
    updates = await startUpdates(run, plan, options, now);
    yield* loop(work, plan, { run, updates, loader }, signal, now);
  } finally {
    await updates?.close();
    loader?.close();
    disposeRun(run);
  }
}

async function startUpdates(run: Run, plan: Plan, { threads }: TrainOptions, now: () => number): Promise<Updates> {
  const { deferred } = run.kernels;
  if (deferred) return deferredUpdates(run, deferred, now);
  const isShared = threads && plan.threads > 1;
  return immediateUpdates(run, isShared ? await threads.start(run, plan.threads) : localGradients(run));
}

/** @throws unprocessable when the numbers do not fit each other or the model; model_too_large */
function planRun(work: TrainWork, { memoryBytes, threads, derive }: TrainOptions): Plan {
  const { batchTokens, sequenceLength, tokens } = work;
  const { config } = work.checkpoint.manifest;
  if (batchTokens % sequenceLength !== 0) {
    const wanted = `a multiple of sequence_length ${sequenceLength} is wanted`;
    throw new CodedError("unprocessable", `batch_tokens is ${batchTokens}, ${wanted}`);
  }
  if (sequenceLength > config.maxPositionEmbeddings) {
    const wanted = `at most the model's max_position_embeddings ${config.maxPositionEmbeddings} is wanted`;
    throw new CodedError("unprocessable", `sequence_length is ${sequenceLength}, ${wanted}`);
  }
  const sequences = batchTokens / sequenceLength;
  const asked = work.microBatchSequences ?? work.resume?.numerics?.microBatchSequences ?? null;
  const batch = { sequences, length: sequenceLength, asked };
  // Helper threads know the model's own weights only, not what others are derived from.
  const derives = derive !== undefined || work.trainable !== undefined || isMasked(work.checkpoint.manifest);
  const reservedBytes = isMasked(work.checkpoint.manifest) ? maskedBytes(config) : 0;
  const available = memoryBytes === null ? null : Math.max(0, memoryBytes - reservedBytes);
  const flops = trainingFlops(config, tokens);
  const plan = planThreads(config, batch, flops, available, derives ? undefined : threads);
  return { ...plan, totalSteps: Math.ceil(tokens / batchTokens), sequences };
}

/** What an update works with. */
interface Means {
  readonly run: Run;
  readonly updates: Updates;
  readonly loader: BatchLoader;
}

async function* loop(
  work: TrainWork,
  plan: Plan,
  means: Means,
  signal: AbortSignal,
  now: () => number,
): AsyncGenerator<WorkEvent, void, undefined> {
  const { run, updates } = means;
  const { progress } = run;
  const pace = new Pace(now());
  let savedStep = progress.step;
  let savedMs = now();
  let toldMs = -Infinity;
  while (progress.step < plan.totalSteps || owesValidation(work, plan, run)) {
    // A validation that was cut short by an abort is made up for before anything else.
    const late = owesValidation(work, plan, run);
    const made = !signal.aborted && !late && (await update(work, plan, means, signal));
    const last = progress.step === plan.totalSteps;
    const owed = owesValidation(work, plan, run);
    const publish = made && !last && isDue(work.saveEveryTokens, work.batchTokens, progress.step);
    const save = publish || (!last && now() - savedMs >= work.saveEveryMs);
    // Nothing is measured, written or ended before it is known that all updates went well.
    const outcomes = await updates.take(!made || owed || save || last);
    pace.steps(outcomes.length, now());
    const withValidation = owed && made ? outcomes.at(-1) : undefined;
    for (const outcome of outcomes) {
      yield* learned(run, outcome);
      if (outcome !== withValidation) yield { type: "metrics", point: metricPoint(work, run, outcome, pace) };
    }
    const validated = owed && (await validate(work, plan, run, signal));
    if (!made && !validated) {
      if (savedStep !== progress.step) yield await savedEvent(work, run, false);
      yield { type: "stopped" };
      return;
    }
    const validatedPoint = withValidation ?? (validated ? null : undefined);
    if (validatedPoint !== undefined) yield { type: "metrics", point: metricPoint(work, run, validatedPoint, pace) };
    if (last || (outcomes.length > 0 && now() - toldMs >= progressEveryMs)) {
      toldMs = now();
      yield progressEvent(plan, run, pace);
    }
    if (save) {
      yield await savedEvent(work, run, publish);
      savedStep = progress.step;
      savedMs = now();
    }
    if (outcomes.length > 0 || validated) pace.resume(now());
  }
  yield await resultEvent(work, run);
}

/** One update; moves the counts on. @returns false when aborted before it was made */
async function update(work: TrainWork, plan: Plan, { run, updates, loader }: Means, signal: AbortSignal) {
  const { progress } = run;
  const learningRate = learningRateAt(work.schedule, work.optimizer.learningRate, progress.step);
  const settings = { learningRate, clip: work.optimizer.clip, step: progress.step + 1 };
  if (!(await updates.make(microBatches(loader, plan, run), settings, signal))) return false;
  progress.step++;
  progress.tokens += work.batchTokens;
  progress.position = loader.position;
  return true;
}

/** Takes note of an update's outcome. @throws diverged */
function* learned({ progress }: Run, outcome: UpdateOutcome): Generator<WorkEvent> {
  const { step, loss, gradNorm, overflowedAt } = outcome;
  progress.lastLoss = loss;
  if (overflowedAt === null) return assertFinite(step, loss, gradNorm);
  const message = `step ${step}: the gradient overflowed at loss scale ${overflowedAt}; the update was skipped`;
  yield { type: "log", level: "info", message: `${message}, the scale is halved` };
}

async function* microBatches(loader: BatchLoader, plan: Plan, run: Run): AsyncGenerator<MicroBatch> {
  for (let done = 0; done < plan.sequences; done += plan.microSequences) {
    yield toMicroBatch(loader.next(plan.microSequences), run.config);
  }
}

/** @returns false when aborted before it was done. @throws diverged when the loss is not finite */
async function validate(work: TrainWork, plan: Plan, run: Run, signal: AbortSignal): Promise<boolean> {
  const { progress } = run;
  const value = await validationLoss(
    run,
    work.dataset,
    { sequenceLength: work.sequenceLength, sequences: plan.microSequences, maxTokens: work.validationTokens },
    signal,
  );
  if (value === null) return false;
  if (!Number.isFinite(value)) {
    const { step } = progress;
    const problem = `the validation loss is ${value}`;
    throw new CodedError("diverged", `training diverged at step ${step}: ${problem}`, { details: { step } });
  }
  progress.lastValidationLoss = value;
  progress.lastValidationStep = progress.step;
  return true;
}

/** Whether a multiple of `everyTokens` was reached or passed by the update that ended at `step`. */
function isDue(everyTokens: number | null, batchTokens: number, step: number): boolean {
  if (everyTokens === null || step === 0) return false;
  return Math.floor((step * batchTokens) / everyTokens) > Math.floor(((step - 1) * batchTokens) / everyTokens);
}

/** Whether the validation that belongs to the last update is still to be made; the final one always belongs. */
function owesValidation(work: TrainWork, plan: Plan, { progress }: Run): boolean {
  const { step, lastValidationStep } = progress;
  if (step === 0 || lastValidationStep === step) return false;
  if (work.dataset.manifest.numValidationTokens < leastValidationTokens) return false;
  return step === plan.totalSteps || isDue(work.validateEveryTokens, work.batchTokens, step);
}

/** @param outcome of an update; null when only the validation of the last was made up for */
function metricPoint(
  work: TrainWork,
  { progress, config }: Run,
  outcome: UpdateOutcome | null,
  pace: Pace,
): MetricPoint {
  const step = outcome?.step ?? progress.step;
  const tokens = progress.tokens - (progress.step - step) * work.batchTokens;
  return {
    ...{ step, tokens, flops: trainingFlops(config, tokens) },
    loss: outcome?.loss ?? progress.lastLoss,
    learningRate: outcome?.learningRate ?? learningRateAt(work.schedule, work.optimizer.learningRate, step - 1),
    gradNorm: outcome && outcome.overflowedAt === null ? outcome.gradNorm : null,
    tokensPerSecond: outcome ? work.batchTokens / pace.lastStepSeconds : null,
    validationLoss: progress.lastValidationStep === step ? progress.lastValidationLoss : null,
  };
}

function progressEvent(plan: Plan, { progress }: Run, pace: Pace): WorkEvent {
  const { step, tokens, lastLoss } = progress;
  return {
    type: "progress",
    fraction: step / plan.totalSteps,
    steps: step,
    totalSteps: plan.totalSteps,
    tokens,
    etaSeconds: pace.secondsFor(plan.totalSteps - step),
    message: `step ${step} of ${plan.totalSteps}, loss ${lastLoss?.toFixed(4)}`,
  };
}

/** The 256-bit build is the relaxed one compiled otherwise, with the same bytes (`kernels/wasm/variants.ts`). */
function sameBytes(kernels: string): string {
  return kernels.replace("relaxed256", "relaxed");
}

function otherKernels(before: string, now: string): WorkEvent {
  const kernels = `began with kernels ${before}, goes on with ${now}`;
  const message = `${kernels}: the last bits may differ from an uninterrupted run`;
  return { type: "log", level: "warn", message };
}

function startMessage(work: TrainWork, plan: Plan, { kernels, progress, optimizer }: Run): string {
  const size = `${plan.sequences} x ${work.sequenceLength} tokens, ${plan.microSequences} sequences at once`;
  const threads = plan.threads > 1 ? ` on each of ${plan.threads} threads` : "";
  const from = progress.step > 0 ? `resumed after step ${progress.step}` : "started";
  const moments = progress.step === 0 && optimizer.step > 0 ? `, optimizer state of ${optimizer.step} updates` : "";
  return `training ${from}: ${plan.totalSteps} steps of ${size}${threads}, kernels ${kernels.name}${moments}`;
}
