/**
 * Which job a worker takes next: of all that it can do, the one that has waited longest, whatever its selector. So
 * no queue starves another, and within a queue jobs go in the order they came. The one exception is `auto`: where a
 * free worker has a more preferred backend, the job is left to it for a moment.
 */
import type { EngineStore } from "../store/store.ts";
import type { WorkerRow } from "../store/workerTypes.ts";
import type { WorkerSelf } from "../store/workers.ts";
import type { Entry, EntryQueue } from "./entries.ts";
import { backendFor, canServe, parseSelector, type Lane, type Selector } from "./selector.ts";

/** How long a job waits for a better worker that is free and yet does not take it, ms. */
const leaveToBetterMs = 5_000;

/** @returns an entry whose job this worker can do as it stands, or null when there is none to take now */
export async function takeEntry(
  lane: Lane,
  self: WorkerSelf,
  { store, entries }: { readonly store: EngineStore; readonly entries: EntryQueue },
): Promise<Entry | null> {
  let workers: readonly WorkerRow[] | null = null;
  for (const { selector: name, waitedMs } of await store.work.waiting()) {
    const selector = parseSelector(name);
    if (selector?.lane !== lane || !canServe(selector, self)) continue;
    if (selector.backend === "auto" && (waitedMs ?? 0) < leaveToBetterMs) {
      workers ??= await store.workers.list();
      if (workers.some((other) => isBetter(other, self, selector))) continue;
    }
    const entry = await entries.take(name);
    if (entry) return entry;
  }
  return null;
}

/** Whether another worker has a place free and would compute such a job on a more preferred backend. */
function isBetter(other: WorkerRow, self: WorkerSelf, selector: Selector): boolean {
  const { lane } = selector;
  const isFree = (other.running[lane]?.length ?? 0) < (other.places[lane] ?? 0);
  if (other.id === self.id || other.state === "lost" || !isFree || !canServe(selector, other)) return false;
  const preferenceOf = (one: WorkerSelf | WorkerRow): number => backendFor(selector, one.backends)?.preference ?? -1;
  return preferenceOf(other) > preferenceOf(self);
}
