/**
 * Where the docs of benchmark tasks are on this machine: files below BENCHMARKS_DIR, uploads, and what was fetched
 * from the hub. It finds files and names what is missing; reading them is the evaluation's business.
 */
import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { TaskData } from "../backends/work.ts";
import { hubDataPath, listHubData, type HubData } from "../eval/hubData.ts";
import { findTask, tasks } from "../eval/index.ts";
import { expectedFile } from "../eval/readDocs.ts";
import type { Task } from "../eval/task.ts";
import type { Settings } from "../settings.ts";
import type { EvaluationRequest, TaskDataSource } from "./requests.ts";
import { findUploads } from "./uploads.ts";

type Folders = Pick<Settings, "benchmarksDir" | "taskDataDir" | "uploadsDir">;

/** The two files that a task may need; `shots` only where it takes its examples from a file. */
export interface TaskFiles {
  readonly docs: string | null;
  readonly shots: string | null;
}

/** A task of a request, and what is known of its data before any is fetched. */
export interface RequestedTask {
  readonly task: Task;
  readonly source: TaskDataSource;
  /** Null where the hub has to be asked. */
  readonly data: TaskData | null;
}

function refuse(code: "invalid_request" | "not_found", pointer: string, detail: string): CodedError {
  return new CodedError(code, `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

/** @returns the split that a task's examples come from, where that is a file of its own. */
export function shotsSplit({ fewshot }: Task): string | null {
  return fewshot.from === "file" ? fewshot.split : null;
}

/**
 * Finds the data of each task of a request.
 * @throws invalid_request for an unknown task, not_found for one whose file is not there: it says what is expected
 *   and where it can be had
 */
export async function findTaskData(request: EvaluationRequest, folders: Folders): Promise<RequestedTask[]> {
  const { data: sources = {}, num_fewshot: numFewshot = 0 } = request;
  const stray = Object.keys(sources).find((name) => !request.tasks.includes(name));
  if (stray !== undefined) throw refuse("invalid_request", `/data/${stray}`, "is the data of a task not asked for");
  const found: RequestedTask[] = [];
  for (const [index, name] of request.tasks.entries()) {
    const task = findTask(name);
    const known = tasks.map((one) => one.name).join(", ");
    if (!task) throw refuse("invalid_request", `/tasks/${index}`, `is ${JSON.stringify(name)}; known are ${known}`);
    const source = Object.hasOwn(sources, name) ? (sources[name] as TaskDataSource) : null;
    const data = await findData(task, source, numFewshot > 0, { folders, pointer: `/tasks/${index}` });
    found.push({ task, source: source ?? { type: "directory" }, data });
  }
  return found;
}

async function findData(
  task: Task,
  source: TaskDataSource | null,
  wantsShots: boolean,
  { folders, pointer }: { folders: Folders; pointer: string },
): Promise<TaskData | null> {
  if (source?.type === "hub") return null;
  const needsShots = wantsShots && shotsSplit(task) !== null;
  if (source?.type === "upload") return uploadedData(task, source, needsShots, folders);
  const files = await directoryFiles(task, folders.benchmarksDir);
  const fetched = source === null ? await fetchedData(task, folders.taskDataDir) : { docs: null, shots: null };
  const docs = files.docs ?? fetched.docs;
  if (docs === null) throw refuse("not_found", pointer, `${task.name} has no docs here; ${howToGet(task, "docs")}`);
  const shots = files.shots ?? fetched.shots;
  if (needsShots && shots === null) {
    const problem = `${task.name} has no examples here; ${howToGet(task, "shots")}`;
    throw refuse("not_found", "/num_fewshot", problem);
  }
  return dataOf(task, docs, needsShots ? shots : null);
}

/** A file of BENCHMARKS_DIR, or one that came from the hub. */
type Found = string | HubDataFile;

interface HubDataFile extends HubData {
  readonly path: string;
}

function dataOf(task: Task, docs: Found, shots: Found | null): TaskData {
  const pathOf = (found: Found): string => (typeof found === "string" ? found : found.path);
  const origin = { ...originOf(docs), ...(shots === null ? {} : { fewshot: originOf(shots) }) };
  return { task: task.name, path: pathOf(docs), ...(shots === null ? {} : { shotsPath: pathOf(shots) }), origin };
}

function originOf(found: Found): JsonObject {
  if (typeof found === "string") return { type: "directory", file: basename(found) };
  return hubOrigin(found);
}

/** What a result says of data that came from the hub. */
export function hubOrigin({ repository, config, split, revision, commit, files }: HubData): JsonObject {
  const shown = files.map(({ name, sha256 }) => ({ name, sha256 }));
  return { type: "hub", repository, config, split, revision, commit, files: shown };
}

/** @returns the data of a task as the hub gave it. */
export function hubTaskData(task: Task, cacheDir: string, docs: HubData, shots: HubData | null): TaskData {
  const placed = (data: HubData): HubDataFile => ({ ...data, path: hubDataPath(cacheDir, data) });
  return dataOf(task, placed(docs), shots && placed(shots));
}

async function uploadedData(
  task: Task,
  source: TaskDataSource & { type: "upload" },
  needsShots: boolean,
  { uploadsDir }: Folders,
): Promise<TaskData> {
  const pointer = `/data/${task.name}`;
  const [docs] = await findUploads(uploadsDir, source.upload, `${pointer}/upload`);
  if (!docs) throw new Error("invariant: an upload is one file");
  const given = source.fewshot_upload;
  if (needsShots && given === undefined) {
    throw refuse("invalid_request", pointer, `num_fewshot needs "fewshot_upload" too: ${expectedFile(task, "shots")}`);
  }
  const [shots] = given === undefined ? [] : await findUploads(uploadsDir, given, `${pointer}/fewshot_upload`);
  const origin = { type: "upload", file: docs.name, ...(shots ? { fewshot: { file: shots.name } } : {}) };
  return { task: task.name, path: docs.path, ...(shots && needsShots ? { shotsPath: shots.path } : {}), origin };
}

/** @returns the ids of all uploads that a request takes its data from. */
export function uploadsOf({ data = {} }: EvaluationRequest): string[] {
  return Object.values(data).flatMap((source) => {
    if (source.type !== "upload") return [];
    return source.fewshot_upload === undefined ? [source.upload] : [source.upload, source.fewshot_upload];
  });
}

function howToGet(task: Task, file: "docs" | "shots"): string {
  const names = task.fewshot.from === "file" && file === "shots" ? task.fewshot.fileNames : task.dataset.fileNames;
  const place = `put it at ${task.name}/${names[0] ?? ""} below BENCHMARKS_DIR`;
  const or = `upload it, or ask for "data": {"${task.name}": {"type": "hub"}}`;
  return `${place}, ${or}. Expected is ${expectedFile(task, file)}`;
}

/**
 * The files of a task below BENCHMARKS_DIR: TASK/FILE, or TASK.jsonl. Data sets share file names (test.jsonl), so a
 * file is only taken from a folder of its task's name. Parquet under the same names will do.
 */
export async function directoryFiles(task: Task, benchmarksDir: string): Promise<TaskFiles> {
  const places = (names: readonly string[], bare: string): string[] =>
    [...names.map((name) => join(benchmarksDir, task.name, name)), join(benchmarksDir, bare)].flatMap((path) => {
      return [path, path.replace(/\.jsonl$/, ".parquet")];
    });
  const { dataset, fewshot } = task;
  const docs = await firstFile(places(dataset.fileNames, `${task.name}.jsonl`));
  if (fewshot.from !== "file") return { docs, shots: null };
  return { docs, shots: await firstFile(places(fewshot.fileNames, `${task.name}_${fewshot.split}.jsonl`)) };
}

/** The latest that was fetched from the hub. */
async function fetchedData(
  task: Task,
  cacheDir: string,
): Promise<{ docs: HubDataFile | null; shots: HubDataFile | null }> {
  const latest = async (split: string | null): Promise<HubDataFile | null> => {
    const [data] = split === null ? [] : await listHubData(cacheDir, task.name, split);
    return data ? { ...data, path: hubDataPath(cacheDir, data) } : null;
  };
  return { docs: await latest(task.dataset.split), shots: await latest(shotsSplit(task)) };
}

async function firstFile(paths: readonly string[]): Promise<string | null> {
  for (const path of paths) {
    const file = await stat(path).catch(() => null);
    if (file?.isFile()) return path;
  }
  return null;
}

/** What `/v1/benchmarks` says of a task's data. */
export interface TaskAvailability {
  /** File name of the directory's docs. */
  readonly directory: string | null;
  /** What was fetched from the hub, the latest first. */
  readonly hub: readonly HubData[];
  /** Where examples of few-shot prompts would come from now; null where they are not here. */
  readonly fewshot: "directory" | "hub" | "docs" | "none" | null;
}

export async function taskAvailability(task: Task, folders: Folders): Promise<TaskAvailability> {
  const files = await directoryFiles(task, folders.benchmarksDir);
  const hub = await listHubData(folders.taskDataDir, task.name, task.dataset.split);
  const shots = shotsSplit(task);
  const fetchedShots = shots === null ? [] : await listHubData(folders.taskDataDir, task.name, shots);
  const fromFile = files.shots !== null ? "directory" : fetchedShots.length > 0 ? "hub" : null;
  const fewshot = task.fewshot.from === "file" ? fromFile : task.fewshot.from;
  return { directory: files.docs === null ? null : basename(files.docs), hub, fewshot };
}
