/** The pool of warm model processes as the API sees it. */
import type { FileRef, ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { GenerateEvent, GenerateRequest } from "../infer/servedModel.ts";

export interface ModelPool {
  /**
   * Generates on the checkpoint, loading it first where it is not warm. The request waits in a bounded queue.
   * Aborting frees its place. @throws too_many_requests, model_too_large, compute_crashed, unavailable
   * @param continued whether it belongs to work already begun (a further choice of one HTTP request), which is not
   *   turned away for a full queue and does not fill it; its caller has a bounded number of them
   */
  generate(
    checkpoint: ResolvedCheckpoint,
    request: GenerateRequest,
    signal: AbortSignal,
    continued?: boolean,
  ): AsyncIterable<GenerateEvent>;
  /** Checkpoint ids in memory now. */
  warm(): readonly string[];
  /** Unloads checkpoints that were deleted, as soon as what runs on them has ended. Unknown ids are fine. */
  drop(checkpointIds: readonly string[]): void;
  close(): Promise<void>;
}

export type { FileRef };
