/**
 * What a compute backend is: something that can train, evaluate, compare and serve a checkpoint. A backend
 * knows files and numbers; it knows nothing of HTTP, jobs or the database. Long work is an
 * `AsyncIterable<WorkEvent>` with an `AbortSignal`: aborting asks for a clean stop (training saves its state
 * first, then yields `stopped`). Backends run inside a compute process (`engine/jobs/child.ts`,
 * `engine/serving/child.ts`), never in the server.
 */
import type { WorkEvent } from "../../ops/events.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { KernelVariant } from "../kernels/wasm/variants.ts";
import type { CacheOptions } from "../infer/loadServedModel.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import type { WebgpuOptions } from "./webgpuDevice.ts";
import type { CompareWork, EvaluateWork, FitWork, ReducedPrecision, TrainWork } from "./work.ts";

export interface BackendProbe {
  readonly available: boolean;
  /** Why not, when it is not available: names what is missing and where it can be had. */
  readonly reason: string | null;
  /** For a person: CPU or adapter name. */
  readonly device: string | null;
  /** Facts such as kernel variant, SIMD level, limits. */
  readonly features: Readonly<Record<string, string | number | boolean>>;
  /** Bytes a model and its activations may take on it, or null when unknown. */
  readonly memoryBytes: number | null;
  /** False where `auto` passes it over although it works by name: a GPU that is the processor in disguise. */
  readonly automatic?: boolean;
  /** Precisions beside f32: why it does not train with one here, or null where it does. It never has the absent. */
  readonly precisions?: Readonly<Partial<Record<ReducedPrecision, string | null>>>;
}

export interface ProbeOptions {
  readonly measure?: boolean;
}

/** What the settings say about every backend; each takes what concerns it. */
export interface BackendOptions {
  /** The build of the wasm kernels to insist on; null for the fastest that runs. */
  readonly variant?: KernelVariant | null;
  /** Threads that a training may use; 1 unless given. */
  readonly threads?: number;
  /** Which GPU may be used; the fastest unless given. */
  readonly webgpu?: WebgpuOptions;
}

export interface Backend {
  readonly name: string;
  readonly description: string;
  /** Whether weights of bfloat16 stay in 16 bits while it generates and scores (`infer/servingMemory.ts`). */
  readonly keepsHalf: boolean;
  /** Higher is preferred by `backend: "auto"` among those available. */
  readonly preference: number;
  /**
   * Cheap, without side effects that outlive it, never throws. With `measure` it may take a second the first time,
   * to tell what is only known by trial.
   */
  probe(options?: ProbeOptions): Promise<BackendProbe>;
  train(work: TrainWork, signal: AbortSignal): AsyncIterable<WorkEvent>;
  /** Trains what a learned growth makes the grown weights of. */
  fit(work: FitWork, signal: AbortSignal): AsyncIterable<WorkEvent>;
  evaluate(work: EvaluateWork, signal: AbortSignal): AsyncIterable<WorkEvent>;
  /** Measures the logit change between two checkpoints on a seeded probe batch. */
  compare(work: CompareWork, signal: AbortSignal): AsyncIterable<WorkEvent>;
  /**
   * Loads a checkpoint for generation and scoring; the caller closes it.
   * @param options what its caches may hold, as in `loadServedModel.ts`
   */
  load(checkpoint: ResolvedCheckpoint, options?: CacheOptions): Promise<ServedModel>;
}
