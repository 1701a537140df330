/** Why a queued job has not begun, in words for whoever waits for it: which workers there are, and what they lack. */
import type { JobRow } from "../store/types.ts";
import type { WorkerRow } from "../store/workerTypes.ts";
import { backendFor, canServe, parseSelector, type Selector } from "./selector.ts";

const maxNamesTold = 10;

/** @returns null where the job is not queued, or nothing holds it up but the next look of a worker that is free */
export function waitingReason(job: JobRow, workers: readonly WorkerRow[], nowMs = Date.now()): string | null {
  const selector = job.status === "queued" ? parseSelector(job.selector ?? "") : null;
  if (selector === null) return null;
  const delayMs = (job.queuedAt?.getTime() ?? 0) - nowMs;
  if (delayMs > 0) return `it failed for a passing cause and is tried again in ${Math.ceil(delayMs / 1000)} s`;
  const alive = workers.filter(({ state }) => state === "alive");
  if (alive.length === 0) return "no worker is alive; `npm run worker` starts one";
  const able = alive.filter((worker) => canServe(selector, worker));
  if (able.length === 0) return lacking(selector, job.needsBytes, alive);
  const free = able.filter(({ running, places }) => {
    return (running[selector.lane]?.length ?? 0) < (places[selector.lane] ?? 0);
  });
  if (free.length > 0) return null;
  const who = able.length === 1 ? "the one worker that can do it is" : `all ${able.length} workers that can do it are`;
  return `${who} busy`;
}

/** What no living worker has. */
function lacking(selector: Selector, needsBytes: number | null, alive: readonly WorkerRow[]): string {
  const { backend, need } = selector;
  const { precision, ...anyPrecision } = selector;
  const anySize = { ...selector, sizeClass: 0 };
  const trains = (one: Selector): boolean => alive.some(({ backends }) => backendFor(one, backends));
  if (precision && !trains(anySize) && trains({ ...anyPrecision, sizeClass: 0 })) {
    return `no living worker trains with precision ${precision} on backend ${backend}`;
  }
  if (backend !== null && !alive.some(({ backends }) => backendFor(anySize, backends))) {
    const names = alive.flatMap(({ backends }) => backends.filter((one) => one.available).map(({ name }) => name));
    const told = [...new Set(names)].slice(0, maxNamesTold).join(", ") || "none";
    return `no living worker has backend ${backend}; theirs are ${told}`;
  }
  if (backend !== null && !alive.some(({ backends }) => backendFor(selector, backends))) {
    const most = Math.max(...alive.map(({ backends }) => backendFor(anySize, backends)?.memoryBytes ?? 0));
    const needs = `its model needs about ${Math.round(needsBytes ?? 0)} bytes on backend ${backend}`;
    return `${needs}; the most that a living worker has is ${most}`;
  }
  const place =
    need === "files" ? "the server's DATA_DIR and IMPORT_ROOTS" : "the files of the benchmarks, and the backend";
  return `no living worker has ${place} at hand`;
}
