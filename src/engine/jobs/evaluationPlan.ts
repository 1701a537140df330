/** From an evaluation request to the work of a backend: which task is in which file, and defaults. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import { tokenizerOf, type ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { EvaluateWork, TaskData } from "../backends/work.ts";
import { findTask, tasks } from "../eval/index.ts";
import type { Settings } from "../settings.ts";
import type { CheckpointRow } from "../store/types.ts";
import type { EvaluationRequest } from "./requests.ts";

/** As lm-evaluation-harness: enough for a standard error, and quick. */
const defaultBootstrapIterations = 100_000;

function refuse(code: "invalid_request" | "not_found" | "unprocessable", pointer: string, detail: string): CodedError {
  return new CodedError(code, `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

/** @throws invalid_request, not_found, unprocessable; with pointers */
export async function checkEvaluation(
  request: EvaluationRequest,
  checkpoint: CheckpointRow,
  settings: Settings,
): Promise<void> {
  if (tokenizerOf(checkpoint.id, checkpoint.manifest) === null) {
    throw refuse("unprocessable", "/checkpoint", `${checkpoint.id} has no tokenizer, which every task needs`);
  }
  if (new Set(request.tasks).size !== request.tasks.length)
    throw refuse("invalid_request", "/tasks", "names a task twice");
  await findTaskFiles(request.tasks, settings.benchmarksDir);
}

/**
 * Finds the file of each task: BENCHMARKS_DIR/TASK/FILE, or BENCHMARKS_DIR/TASK.jsonl. Data sets share file names
 * (test.jsonl), so a file is only taken from a folder of its task's name.
 * @throws invalid_request for an unknown task, not_found for one whose file is not there
 */
export async function findTaskFiles(names: readonly string[], benchmarksDir: string): Promise<TaskData[]> {
  const found: TaskData[] = [];
  for (const [index, name] of names.entries()) {
    const task = findTask(name);
    const known = tasks.map((one) => one.name).join(", ");
    if (!task) throw refuse("invalid_request", `/tasks/${index}`, `is ${JSON.stringify(name)}; known are ${known}`);
    const { fileNames } = task.dataset;
    const places = fileNames.map((file) => join(benchmarksDir, task.name, file));
    places.push(join(benchmarksDir, `${task.name}.jsonl`));
    const path = await firstFile(places);
    if (path === null) {
      const wanted = `${task.name}/${fileNames[0] ?? ""}`;
      throw refuse(
        "not_found",
        `/tasks/${index}`,
        `${task.name} has no file; put it at ${wanted} below BENCHMARKS_DIR`,
      );
    }
    found.push({ task: task.name, path });
  }
  return found;
}

async function firstFile(paths: readonly string[]): Promise<string | null> {
  for (const path of paths) {
    const file = await stat(path).catch(() => null);
    if (file?.isFile()) return path;
  }
  return null;
}

/** @returns the request with every default filled in. */
export async function planEvaluation(
  request: EvaluationRequest,
  checkpoint: ResolvedCheckpoint,
  benchmarksDir: string,
  backend: string,
): Promise<EvaluateWork> {
  return {
    ...{ checkpoint, backend },
    tasks: await findTaskFiles(request.tasks, benchmarksDir),
    limit: request.limit ?? null,
    bos: request.bos ?? "none",
    maxLength: request.max_length ?? null,
    bootstrapIterations: request.bootstrap_iterations ?? defaultBootstrapIterations,
  };
}
