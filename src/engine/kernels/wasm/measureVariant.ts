/**
 * The build that a compute process on this machine takes, found out by the same trial in a thread of its own: a
 * server can tell it without loading a tensor library and without a pause.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { KernelVariant } from "./variants.ts";

const timeoutMs = 8_000;

/** @throws when the trial fails or takes longer than 8 s */
export async function measureVariant(wanted: KernelVariant | null): Promise<KernelVariant> {
  const worker = new Worker(new URL("./trialThread.ts", import.meta.url), { workerData: wanted, env: {} });
  try {
    const [variant] = await once(worker, "message", { signal: AbortSignal.timeout(timeoutMs) });
    return variant as KernelVariant;
  } finally {
    await worker.terminate();
  }
}
