/**
 * Watches the resident memory of a process through /proc, where there is one; elsewhere V8's own heap limit
 * is all that holds. Tensors live outside of V8's heap, so the kernel's number is the one that counts.
 */
import { readFile } from "node:fs/promises";

const pollMs = 250;

/** Calls `onExceeded` once, as soon as the process holds more than `limitBytes`. @returns how to stop watching */
export function watchMemory(pid: number, limitBytes: number, onExceeded: (rssBytes: number) => void): () => void {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  const look = async (): Promise<void> => {
    const rssBytes = await residentBytes(pid);
    if (stopped) return;
    if (rssBytes !== null && rssBytes > limitBytes) return onExceeded(rssBytes);
    timer = setTimeout(() => void look(), pollMs);
    timer.unref();
  };
  void look();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

/** @returns bytes in memory, or null where that cannot be known. */
export async function residentBytes(pid: number): Promise<number | null> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  return kibibytes === undefined ? null : Number(kibibytes) * 1024;
}
