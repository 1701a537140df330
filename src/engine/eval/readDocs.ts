/**
 * Reads the docs of a task from a local .jsonl file, one JSON object a line, and takes the digest of the whole
 * file with it, so that a result can say on which data it was made. Every line is outside data: the error names
 * task, line and field.
 */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { Task, TaskDoc } from "./task.ts";
import { DocFields } from "./task.ts";

/** The largest task file read, bytes; the largest of the eight benchmarks has 1.8 MB. */
export const maxTaskFileBytes = 512 * 1024 * 1024;
/** Docs in a task file, at most. */
export const maxDocs = 1_000_000;

export interface TaskDocs {
  readonly docs: readonly TaskDoc[];
  /** Docs in the file, of which the limit may have taken only the first. */
  readonly numDocsInFile: number;
  /** SHA-256 of the file, lowercase hex. */
  readonly digest: string;
}

/** @returns how many of `count` docs a limit takes: below 1 a fraction rounded up, else a number of docs. */
export function limitDocs(count: number, limit: number | null): number {
  if (limit === null) return count;
  if (!(limit > 0)) throw new CodedError("invalid_request", `limit is ${limit}, more than 0 is wanted`);
  return Math.min(count, limit < 1 ? Math.ceil(count * limit) : Math.trunc(limit));
}

function parseLine(line: string, where: string): DocFields {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new CodedError("dataset_invalid", `${where}: not valid JSON`, { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CodedError("dataset_invalid", `${where}: a JSON object is wanted`);
  }
  return new DocFields(value as Record<string, unknown>, where);
}

/**
 * Parses the text of a task file.
 * @throws dataset_invalid
 */
export function parseDocs(task: Task, text: string, limit: number | null): Omit<TaskDocs, "digest"> {
  const lines = text.replace(/^\uFEFF/, "").split("\n");
  const numbered = lines.map((line, i) => ({ line, number: i + 1 })).filter(({ line }) => line.trim() !== "");
  if (numbered.length === 0) throw new CodedError("dataset_invalid", `${task.name}: the file has no docs`);
  if (numbered.length > maxDocs) {
    throw new CodedError("dataset_invalid", `${task.name}: ${numbered.length} docs, at most ${maxDocs}`);
  }
  const taken = numbered.slice(0, limitDocs(numbered.length, limit));
  const docs = taken.map(({ line, number }) => task.parseDoc(parseLine(line, `${task.name} line ${number}`)));
  return { docs, numDocsInFile: numbered.length };
}

/**
 * Reads a task file.
 * @throws dataset_invalid
 */
export async function readDocs(task: Task, path: string, limit: number | null): Promise<TaskDocs> {
  let bytes: Uint8Array;
  try {
    const { size } = await stat(path);
    if (size > maxTaskFileBytes) {
      throw new CodedError("dataset_invalid", `${task.name}: ${size} bytes, at most ${maxTaskFileBytes} are read`);
    }
    bytes = await readFile(path);
  } catch (error) {
    if (error instanceof CodedError) throw error;
    throw new CodedError("dataset_invalid", `${task.name}: the file cannot be read`, { cause: error });
  }
  const digest = createHash("sha256").update(bytes).digest("hex");
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new CodedError("dataset_invalid", `${task.name}: the file is not UTF-8`, { cause });
  }
  return { ...parseDocs(task, text, limit), digest };
}
