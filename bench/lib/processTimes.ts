/** What processes spend, as /proc tells it: the server of a bench, its model processes, and this process. */
import { readFileSync, readdirSync } from "node:fs";
import { execFileSync } from "node:child_process";

/** Seconds of a processor that each took. */
export interface CpuSeconds {
  readonly server: number;
  readonly model: number;
  readonly client: number;
}

const parts = ["server", "model", "client"] as const;
let ticksPerSecond = 0;

/** @returns the ids of the server's model processes. */
export function modelsOf(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
  return children.filter((child) => readFileSync(`/proc/${child}/cmdline`, "utf8").includes("serving/child.ts"));
}

/** @returns what the three took so far; to be called while the same model processes live. */
export function cpuSeconds(serverPid: number): CpuSeconds {
  const { user, system } = process.cpuUsage();
  const model = modelsOf(serverPid).reduce((sum, pid) => sum + secondsOf(pid), 0);
  return { server: secondsOf(serverPid), model, client: (user + system) / 1e6 };
}

/** @returns milliseconds for each of `tokens` between two looks, as a line of text. */
export function millisecondsEach(before: CpuSeconds, after: CpuSeconds, tokens: number): string {
  return parts.map((part) => `${part} ${(((after[part] - before[part]) * 1000) / tokens).toFixed(2)}`).join(", ");
}

/** proc_pid_stat(5): user and system time are fields 14 and 15, counted behind the name in brackets. */
function secondsOf(pid: number): number {
  ticksPerSecond ||= Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}
