/**
 * Ends this process when its parent is gone, even while its own thread is caught in a loop that never ends: a
 * thread beside it looks. ENTRY of that thread, too.
 */
import { isMainThread, Worker, workerData } from "node:worker_threads";

const lookEveryMs = 1000;

/** Starts the watch; it does not keep the process alive. */
export function endWithParent(): void {
  process.on("disconnect", () => process.exit(1));
  new Worker(new URL(import.meta.url), {
    workerData: { parentPid: process.ppid },
    env: {},
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
  }).unref();
}

function watch(parentPid: number): void {
  setInterval(() => {
    if (process.ppid !== parentPid) process.kill(process.pid, "SIGKILL");
  }, lookEveryMs);
}

if (!isMainThread && isWatch(workerData)) watch(workerData.parentPid);

function isWatch(data: unknown): data is { readonly parentPid: number } {
  return typeof data === "object" && data !== null && "parentPid" in data;
}
