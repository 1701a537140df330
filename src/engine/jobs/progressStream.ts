/** Turns work that reports by callback into the one shape of work: a stream of events that ends in a result. */
import type { NewBlob, WorkEvent } from "../../ops/events.ts";
import { CodedError } from "../../ops/errors.ts";

export type OnProgress = (fraction: number, more?: { tokens?: number; message?: string }) => void;

/** Progress is passed on at most this often. */
const progressEveryMs = 200;

/**
 * @param message what is being done, for a person
 * @param work aborted work throws; the stream then ends with `stopped`
 */
export async function* progressStream(
  message: string,
  signal: AbortSignal,
  work: (onProgress: OnProgress) => Promise<{ result: unknown; blobs: readonly NewBlob[] }>,
): AsyncGenerator<WorkEvent> {
  let latest: (WorkEvent & { type: "progress" }) | null = null;
  const startedMs = Date.now();
  const onProgress: OnProgress = (fraction, more) => {
    const elapsedSeconds = (Date.now() - startedMs) / 1000;
    const etaSeconds = fraction > 0.01 ? (elapsedSeconds * (1 - fraction)) / fraction : null;
    latest = { type: "progress", fraction: Math.min(1, fraction), etaSeconds, message, ...more };
  };
  const ended = work(onProgress).then(
    (made) => ({ made }),
    (error: unknown) => ({ error }),
  );
  for (;;) {
    let timer: NodeJS.Timeout | undefined;
    const tick = new Promise<null>((resolve) => (timer = setTimeout(() => resolve(null), progressEveryMs)));
    const outcome = await Promise.race([ended, tick]);
    clearTimeout(timer);
    if (latest !== null) yield latest;
    latest = null;
    if (outcome === null) continue;
    if ("made" in outcome) {
      yield { type: "result", ...outcome.made };
      return;
    }
    const isAbort = signal.aborted && (!(outcome.error instanceof CodedError) || outcome.error.code === "cancelled");
    if (!isAbort) throw outcome.error;
    yield { type: "stopped" };
    return;
  }
}
