/**
 * Removes what nobody needs any more, now and then: blobs that no checkpoint, dataset or resume point refers
 * to, files that the store never came to know (a crash between writing and the transaction), uploads that
 * nobody finished or used, and old answers kept for idempotency.
 */
import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { removeBlobs, sweepBlobs } from "../checkpoint/blobSweep.ts";
import type { Log } from "../log.ts";
import type { Metrics } from "../metrics.ts";
import type { Settings } from "../settings.ts";
import type { EngineStore } from "../store/store.ts";

export interface SweeperOptions {
  readonly store: EngineStore;
  readonly settings: Settings;
  readonly log: Log;
  readonly metrics: Metrics;
}

export interface Sweeper {
  close(): Promise<void>;
}

/** Uploads untouched for so long are given up. */
const uploadLifetimeMs = 24 * 3_600_000;

export function startSweeper(options: SweeperOptions): Sweeper {
  const closing = new AbortController();
  const loop = async (): Promise<void> => {
    for (;;) {
      await sleep(options.settings.sweepEveryMs, undefined, { signal: closing.signal }).catch(() => undefined);
      if (closing.signal.aborted) return;
      try {
        await sweepOnce(options, closing.signal);
      } catch (error) {
        if (!closing.signal.aborted) options.log.warn({ err: error }, "sweep failed");
      }
    }
  };
  const running = loop();
  return {
    close() {
      closing.abort();
      return running;
    },
  };
}

/** One round. @returns blobs removed */
export async function sweepOnce(options: SweeperOptions, signal: AbortSignal): Promise<number> {
  const { store, settings, log, metrics } = options;
  const { blobDir, sweepGraceMs: graceMs } = settings;
  let removed = 0;
  const unlink = async (digest: string): Promise<void> => {
    removed += (await removeBlobs(blobDir, [digest], { graceMs })).removedBlobs;
  };
  while ((await store.blobs.sweep(graceMs, unlink)) > 0) signal.throwIfAborted();
  const known = (digests: readonly string[]) => store.blobs.known(digests);
  const files = await sweepBlobs(blobDir, { known, graceMs, temporaryAgeMs: graceMs, signal });
  removed += files.removedBlobs;
  await store.idempotency.sweep();
  await sweepUploads(settings.uploadsDir);
  metrics.blobsSwept.inc(removed);
  if (removed > 0 || files.removedTemporary > 0)
    log.info({ blobs: removed, temporary: files.removedTemporary }, "swept");
  return removed;
}

async function sweepUploads(uploadsDir: string): Promise<void> {
  for (const name of await readdir(uploadsDir).catch(() => [])) {
    const path = join(uploadsDir, name);
    const file = await stat(path).catch(() => null);
    if (file?.isFile() && Date.now() - file.mtimeMs > uploadLifetimeMs) await rm(path, { force: true });
  }
}
