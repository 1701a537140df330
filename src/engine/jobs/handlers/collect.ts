/** Follows work to its end: what it reports goes to the job, what it made comes back. */
import type { NewBlob, WorkEvent } from "../../../ops/events.ts";
import type { JsonObject } from "../../../ops/manifest.ts";
import { CodedError } from "../../../ops/errors.ts";
import type { NewBlobRow } from "../../store/types.ts";
import type { HandlerContext } from "../handler.ts";

export interface Made<Result> {
  readonly result: Result;
  readonly blobs: readonly NewBlob[];
}

/**
 * @param onSaved for work that saves resume points
 * @param onPart for work that keeps what it has done in pieces
 * @returns what the work made, or null where it stopped because it was asked to
 */
export async function collect<Result>(
  events: AsyncIterable<WorkEvent>,
  context: Pick<HandlerContext, "report">,
  onSaved?: (event: WorkEvent & { type: "saved" }) => Promise<void>,
  onPart?: (data: JsonObject) => Promise<void>,
): Promise<Made<Result> | null> {
  let made: Made<Result> | null = null;
  for await (const event of events) {
    if (event.type === "stopped") return null;
    if (event.type === "result") made = { result: event.result as Result, blobs: event.blobs };
    else if (event.type === "saved") await onSaved?.(event);
    else if (event.type === "part") await onPart?.(event.data);
    else await context.report(event);
  }
  if (made === null) throw new CodedError("compute_crashed", "the compute process ended without a result");
  return made;
}

/** Files of the blob directory as rows for the store. */
export function ownBlobs(blobs: readonly NewBlob[]): NewBlobRow[] {
  return blobs.map(({ digest, sizeBytes }) => ({ digest, sizeBytes, external: null }));
}
