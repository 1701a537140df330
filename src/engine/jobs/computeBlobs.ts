/**
 * The blobs around a piece of work: what it reads is at hand before it begins and stays until it has ended, and what
 * it made is where everybody finds it before its event is passed on.
 */
import type { TrainingState, WorkEvent } from "../../ops/events.ts";
import type { NewBlob } from "../../ops/events.ts";
import type { BlobLocation } from "../../ops/manifest.ts";
import type { EngineStore } from "../store/store.ts";
import type { BlobTraffic } from "./blobCache.ts";
import type { ComputeRequest } from "./computeProtocol.ts";

export interface BlobTools {
  readonly blobs: BlobTraffic;
  readonly store: EngineStore;
  readonly signal: AbortSignal;
  /** How long what was made may still be sent after the work was told to stop, ms. */
  readonly stopTimeoutMs: number;
}

/** @throws what the work throws; what fetching and sending blobs throw */
export async function* withBlobs(
  request: ComputeRequest,
  { blobs, store, signal, stopTimeoutMs }: BlobTools,
  work: () => AsyncIterable<WorkEvent>,
): AsyncGenerator<WorkEvent> {
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onStop = (): void => {
    timer = setTimeout(() => late.abort(signal.reason), stopTimeoutMs);
  };
  if (signal.aborted) onStop();
  signal.addEventListener("abort", onStop, { once: true });
  const release = await blobs.bring(await neededBlobs(request, store), signal);
  try {
    for await (const event of work()) {
      if ("blobs" in event) await blobs.deliver(event.blobs, late.signal);
      yield event;
    }
  } finally {
    release();
    clearTimeout(timer);
    signal.removeEventListener("abort", onStop);
  }
}

/** Parts of a request that may name blobs. */
interface Reading {
  readonly checkpoint?: { readonly blobs?: Readonly<Record<string, BlobLocation>> };
  readonly source?: Reading["checkpoint"];
  readonly target?: Reading["checkpoint"];
  readonly dataset?: Reading["checkpoint"];
  readonly tokenizerBlobs?: Readonly<Record<string, BlobLocation>>;
  readonly resume?: TrainingState | null;
}

/** @returns what the work reads; of a resume point only digests are known, so that the store tells the sizes */
async function neededBlobs(request: ComputeRequest, store: EngineStore): Promise<NewBlob[]> {
  const { checkpoint, source, target, dataset, tokenizerBlobs, resume } = request.work as Reading;
  const { weights = [], optimizer } = resume ?? {};
  const tensors = [...weights, ...(optimizer?.firstMoments ?? []), ...(optimizer?.secondMoments ?? [])];
  const resumed = tensors.length === 0 ? {} : await store.blobs.locate(tensors.map(({ blob }) => blob));
  const maps = [checkpoint?.blobs, source?.blobs, target?.blobs, dataset?.blobs, tokenizerBlobs, resumed];
  const all = new Map(maps.flatMap((map) => Object.entries(map ?? {})));
  return [...all].map(([digest, { sizeBytes }]) => ({ digest, sizeBytes }));
}
