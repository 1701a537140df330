/** The model processes that a process has started, as Linux tells. */
import { readFileSync, readdirSync } from "node:fs";

/** @returns their process ids; empty where there is no /proc. */
export function modelProcesses(parentPid: number): number[] {
  if (process.platform !== "linux") return [];
  const pids = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
  return pids.filter((pid) => {
    try {
      const isChild = readFileSync(`/proc/${pid}/status`, "utf8").includes(`\nPPid:\t${parentPid}\n`);
      return isChild && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("serving/child.ts");
    } catch {
      return false; // it has ended meanwhile
    }
  });
}
