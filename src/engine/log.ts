/** Structured logs as JSON lines on stdout (pino). What may hold a secret is redacted here, once. */
import { pino, type Logger } from "pino";
import type { LogLevel } from "./settings.ts";

export type Log = Logger;

/** @returns the root logger of a process; children of it carry what they belong to. */
export function createLog(level: LogLevel, base: Readonly<Record<string, string>> = {}): Log {
  return pino({
    level,
    base: { ...base, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: {
      paths: ["authorization", "*.authorization", "headers.authorization", "secret", "*.secret"],
      censor: "***",
    },
  });
}
