/** What this machine's processor is, as Linux tells it on x64. */
import { readFileSync } from "node:fs";

export interface Processor {
  /** As CPUID names it, e.g. `AuthenticAMD`. */
  readonly vendor: string;
  /** Instruction sets by Linux's names, e.g. `avx512f`. */
  readonly features: ReadonlySet<string>;
}

/** @returns null on other systems and architectures */
export function linuxProcessor(): Processor | null {
  if (process.platform !== "linux" || process.arch !== "x64") return null;
  const text = readFileSync("/proc/cpuinfo", "utf8");
  const value = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(text)?.[1] ?? "";
  return { vendor: value("vendor_id"), features: new Set(value("flags").split(" ")) };
}
