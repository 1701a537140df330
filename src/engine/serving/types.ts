/** The pool of warm model processes as the API sees it. */
import type { FileRef, ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { GenerateEvent, GenerateRequest } from "../infer/servedModel.ts";

export interface ModelPool {
  /**
   * Generates on the checkpoint, loading it first where it is not warm. The request waits in a bounded queue.
   * Aborting frees its place. @throws too_many_requests, model_too_large, compute_crashed, unavailable
   */
  generate(checkpoint: ResolvedCheckpoint, request: GenerateRequest, signal: AbortSignal): AsyncIterable<GenerateEvent>;
  /** Checkpoint ids in memory now. */
  warm(): readonly string[];
  close(): Promise<void>;
}

export type { FileRef };
