/**
 * Reads the docs of a task from a local file, one JSON object a line or Parquet, and takes the digest of the whole
 * file with it, so that a result can say on which data it was made. Every line is outside data: the error names
 * task, line and field, and what file was expected. Each doc gets the name that the harness gives it, the
 * SHA-256 of its JSON.
 */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { StrictObject } from "../checkpoint/strictJson.ts";
import { parseStrictJson } from "../checkpoint/strictJson.ts";
import { isParquet, maxDocs, rowsToJsonl } from "./parquetRows.ts";
import { pythonJson } from "./pythonJson.ts";
import type { Task, TaskDoc } from "./task.ts";
import { DocFields } from "./task.ts";

/** The largest task file read, bytes; the largest of the eight benchmarks has 1.8 MB. */
export const maxTaskFileBytes = 512 * 1024 * 1024;

export interface TaskDocs {
  readonly docs: readonly TaskDoc[];
  /** `doc_hash` of each doc, as the harness logs it; lowercase hex. */
  readonly hashes: readonly string[];
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

/** Objects and lists within one another in a line, at most. */
const maxLineDepth = 16;
/** Values in a line, at most. */
const maxLineValues = 10_000;

/** Which file of a task is read: its docs, or what few-shot examples are drawn from. */
export type TaskFile = "docs" | "shots";

/** @returns what a person has to know to get a file: its name, its fields, and where it can be had. */
export function expectedFile(task: Task, file: TaskFile): string {
  const { dataset, fewshot } = task;
  const isShots = file === "shots" && fewshot.from === "file";
  const split = isShots ? fewshot.split : dataset.split;
  const names = (isShots ? fewshot.fileNames : dataset.fileNames).join(" or ");
  const config = dataset.config === null ? "" : ` (${dataset.config})`;
  return `${names}: one object a line with ${dataset.fields}; the ${split} split of ${dataset.repository}${config}`;
}

function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

function parseLine(line: string, where: string): StrictObject {
  const options = {
    what: where,
    code: "dataset_invalid",
    maxDepth: maxLineDepth,
    maxValues: maxLineValues,
  } as const;
  const value = parseStrictJson(new TextEncoder().encode(line), options);
  if (value instanceof Map) return value;
  throw new CodedError("dataset_invalid", `${where}: a JSON object is wanted`);
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
  const docs: TaskDoc[] = [];
  const hashes: string[] = [];
  for (const { line, number } of taken) {
    const where = `${task.name} line ${number}`;
    const value = parseLine(line, where);
    docs.push(task.parseDoc(new DocFields(value, where)));
    hashes.push(sha256(pythonJson(task.processDoc?.(value) ?? value)));
  }
  return { docs, hashes, numDocsInFile: numbered.length };
}

/**
 * Reads a file of a task.
 * @throws dataset_invalid naming what is wrong, and what was expected and where it can be had
 */
export async function readDocs(
  task: Task,
  path: string,
  limit: number | null,
  file: TaskFile = "docs",
): Promise<TaskDocs> {
  try {
    const bytes = await readTaskFile(task, path);
    const text = isParquet(bytes) ? await rowsToJsonl(bytes, `${task.name}: the file`) : decodeText(task, bytes);
    return { ...parseDocs(task, text, limit), digest: sha256(bytes) };
  } catch (error) {
    if (!(error instanceof CodedError) || error.code !== "dataset_invalid") throw error;
    const message = `${error.message} (wanted is ${expectedFile(task, file)})`;
    throw new CodedError("dataset_invalid", message, { cause: error });
  }
}

async function readTaskFile(task: Task, path: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(path);
    if (size <= maxTaskFileBytes) return await readFile(path);
    throw new CodedError("dataset_invalid", `${task.name}: ${size} bytes, at most ${maxTaskFileBytes} are read`);
  } catch (error) {
    if (error instanceof CodedError) throw error;
    throw new CodedError("dataset_invalid", `${task.name}: the file cannot be read`, { cause: error });
  }
}

function decodeText(task: Task, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new CodedError("dataset_invalid", `${task.name}: the file is not UTF-8`, { cause });
  }
}
