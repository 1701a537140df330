/**
 * The work of a tfjs backend, once tfjs is wanted: activate it, choose kernels, and hand over to the trainer,
 * the evaluation, the comparison or the served model. `tfjsBackend.ts` imports this file only when there is
 * work, so that a server that merely lists its backends never loads a tensor library.
 */
import { CodedError } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import { tokenizerOf } from "../../ops/manifest.ts";
import { evaluate } from "../eval/evaluate.ts";
import { loadServedModel } from "../infer/loadServedModel.ts";
import type { CacheOptions } from "../infer/loadServedModel.ts";
import { estimateServingMemory } from "../infer/servingMemory.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import { kernelsFor } from "../kernels/index.ts";
import type { KernelChoice, LoadedKernels } from "../kernels/index.ts";
import type { KernelVariant } from "../kernels/wasm/variants.ts";
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import type { Model } from "../train/loss.ts";
import { fitExpansion } from "../train/fitExpansion.ts";
import { train } from "../train/trainer.ts";
import { compareLogits } from "./compareLogits.ts";
import { guardEvents, guardModel } from "./guardWork.ts";
import { startGradientThreads } from "./gradientThreads.ts";
import { keepsHalf } from "./tfjsBackend.ts";
import type { TfjsBackendName } from "./tfjsRuntime.ts";
import { activateTfjs } from "./tfjsRuntime.ts";
import type { WebgpuOptions } from "./webgpuDevice.ts";
import type { DeviceFaults } from "./webgpuFaults.ts";
import type { CompareWork, EvaluateWork, FitWork, ReducedPrecision, TrainWork } from "./work.ts";

/** What the process takes beside tensors: Node, the compiled code, the tensor that is being read or written. */
const processBytes = 256 * 2 ** 20;

/** What a tfjs backend is made of. */
export interface TfjsCompute {
  readonly tfjs: TfjsBackendName;
  readonly kernels: KernelChoice;
  /** Those that train with another precision than f32. */
  readonly precisions?: Readonly<Partial<Record<ReducedPrecision, KernelChoice>>>;
  /** A build of the wasm kernels to insist on; null for the fastest that runs. */
  readonly variant: KernelVariant | null;
  /** Threads that a training may use. */
  readonly threads: number;
  /** Bytes it has for tensors, or null when unknown. */
  readonly memoryBytes: number | null;
  /** Which GPU, where tfjs runs on one. */
  readonly webgpu?: WebgpuOptions;
}

/** Kernels on an active backend, and who listens to its device, where it has one. */
interface Started extends LoadedKernels {
  readonly faults: DeviceFaults | null;
  /** Tensors lie in memory that is not the process's own. */
  readonly ownMemory: boolean;
}

export async function* runTraining(
  compute: TfjsCompute,
  work: TrainWork,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent, void, undefined> {
  const { compute: trained, reason } = await withPrecision(compute, work);
  if (reason !== null) yield { type: "log", level: "info", message: `kernels ${trained.kernels}: ${reason}` };
  const started = await start(trained);
  const { kernels, fallbackReason, faults } = started;
  if (fallbackReason !== null) yield { type: "log", level: "warn", message: fallbackReason };
  const options = {
    memoryBytes: tensorMemory(compute, work, started),
    threads: {
      most: compute.threads,
      heapBytes: compute.memoryBytes,
      totalBytes: processTensorMemory(work),
      start: (model: Model, threads: number) => startGradientThreads(model, threads, trained),
    },
  };
  yield* guardEvents(faults, train(work, kernels, signal, options));
}

export async function* runFit(
  compute: TfjsCompute,
  work: FitWork,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent, void, undefined> {
  const started = await start(compute);
  const { kernels, fallbackReason, faults } = started;
  if (fallbackReason !== null) yield { type: "log", level: "warn", message: fallbackReason };
  const options = { memoryBytes: tensorMemory(compute, work, started) };
  yield* guardEvents(faults, fitExpansion(work, kernels, signal, options));
}

export async function* runEvaluation(
  compute: TfjsCompute,
  work: EvaluateWork,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent, void, undefined> {
  const { id, manifest, blobs } = work.checkpoint;
  const ref = tokenizerOf(id, manifest);
  if (!ref) throw new CodedError("unprocessable", `checkpoint ${id} has no tokenizer, and the tasks are text`);
  const tokenizer = await loadTokenizerRef(ref, blobs);
  const model = await load(compute, work.checkpoint);
  const { kernels } = await start(compute);
  try {
    yield* evaluate({ ...work, kernels: kernels.name }, model, tokenizer, signal);
  } finally {
    model.close();
  }
}

export async function* runComparison(
  compute: TfjsCompute,
  work: CompareWork,
  signal: AbortSignal,
): AsyncGenerator<WorkEvent, void, undefined> {
  const { kernels, faults } = await start(compute);
  // Compared as tensors of tfjs.
  for (const { manifest } of [work.source, work.target]) checkFits(compute, manifest, false);
  const comparing = compareLogits(work, kernels, signal);
  const result = await (faults?.guard(comparing) ?? comparing);
  await faults?.settle();
  yield result ? { type: "result", result, blobs: [] } : { type: "stopped" };
}

/** @throws model_too_large, checkpoint_corrupt, source_changed, backend_unavailable */
export async function load(
  compute: TfjsCompute,
  checkpoint: ResolvedCheckpoint,
  options: CacheOptions = {},
): Promise<ServedModel> {
  checkFits(compute, checkpoint.manifest, keepsHalf(compute));
  const { kernels, faults } = await start(compute);
  return guardModel(faults, await loadServedModel(checkpoint, kernels, { threads: compute.threads, ...options }));
}

/**
 * @returns what a training in its precision computes with, and why where there was a choice
 * @throws backend_unavailable when there is no such thing
 */
async function withPrecision(
  compute: TfjsCompute,
  { precision = "f32", resume }: TrainWork,
): Promise<{ compute: TfjsCompute; reason: string | null }> {
  if (precision === "f32") return { compute, reason: null };
  const kernels = compute.precisions?.[precision];
  if (kernels === "webgpu-f16" && compute.webgpu) {
    const { chooseHalfKernels } = await import("./webgpuMatrices.ts");
    const chosen = await chooseHalfKernels(compute.webgpu, resume?.numerics?.kernels ?? null);
    return { compute: { ...compute, kernels: chosen.kernels }, reason: chosen.reason };
  }
  if (kernels) return { compute: { ...compute, kernels }, reason: null };
  throw new CodedError("backend_unavailable", `kernels ${compute.kernels} do not train with precision ${precision}`);
}

/** What is left for tensors when the process itself may grow to no more than `work.memoryBytes`. */
function tensorMemory(
  { memoryBytes }: TfjsCompute,
  work: Pick<TrainWork, "memoryBytes">,
  { ownMemory }: Started,
): number | null {
  if (ownMemory) return memoryBytes;
  const total = processTensorMemory(work);
  return total === null ? memoryBytes : Math.min(memoryBytes ?? Infinity, total);
}

/** The same over all threads of the process, or null where there is no limit. */
function processTensorMemory(work: Pick<TrainWork, "memoryBytes">): number | null {
  return work.memoryBytes === undefined ? null : Math.max(0, work.memoryBytes - processBytes);
}

async function start({ tfjs, kernels, variant, webgpu }: TfjsCompute): Promise<Started> {
  const gpu = tfjs === "webgpu" ? await (await import("./webgpuRuntime.ts")).startWebgpu(webgpu) : null;
  await activateTfjs(tfjs);
  const loaded = await kernelsFor(tfjs, kernels, variant);
  return { ...loaded, faults: gpu?.faults ?? null, ownMemory: gpu !== null && !gpu.adapter.software };
}

function checkFits(
  { memoryBytes, tfjs }: TfjsCompute,
  manifest: ResolvedCheckpoint["manifest"],
  isHalfKept: boolean,
): void {
  const neededBytes = estimateServingMemory(manifest, isHalfKept);
  if (memoryBytes === null || neededBytes <= memoryBytes) return;
  throw new CodedError("model_too_large", `the model needs about ${neededBytes} bytes, ${tfjs} has ${memoryBytes}`, {
    details: { neededBytes, availableBytes: memoryBytes },
  });
}
