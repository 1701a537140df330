/**
 * Tells waiting readers that a job may have changed. Writers of this process wake them at once; writers of
 * other processes are noticed by polling, so a wait never lasts longer than `pollMs`: the reader looks again.
 */
export interface Changes {
  notify(id: string): void;
  /** Resolves at the next `notify(id)`, after `pollMs` or `timeoutMs`, or when `signal` aborts. Never rejects. */
  wait(id: string, timeoutMs: number, signal?: AbortSignal): Promise<void>;
}

/** Longest time, ms, that a change made by another process goes unnoticed. */
const pollMs = 400;

export function createChanges(): Changes {
  const waiting = new Map<string, Set<() => void>>();
  return {
    notify(id) {
      for (const wake of [...(waiting.get(id) ?? [])]) wake();
    },
    wait(id, timeoutMs, signal) {
      if (signal?.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        const waiters = waiting.get(id) ?? new Set();
        waiting.set(id, waiters);
        const wake = (): void => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", wake);
          waiters.delete(wake);
          if (waiters.size === 0 && waiting.get(id) === waiters) waiting.delete(id);
          resolve();
        };
        const timer = setTimeout(wake, Math.max(0, Math.min(timeoutMs, pollMs)));
        waiters.add(wake);
        signal?.addEventListener("abort", wake, { once: true });
      });
    },
  };
}
