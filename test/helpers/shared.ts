/**
 * Where the real corpora, checkpoints and golden values lie, if they lie anywhere: a folder named by
 * CAMBIUM_SHARED, or `shared` beside the repository. They are not part of the project; tests that need them skip.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const repository = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

function sharedPath(...parts: string[]): string | null {
  const root = process.env["CAMBIUM_SHARED"] ?? join(repository, "..", "shared");
  const path = join(root, ...parts);
  return existsSync(path) ? path : null;
}

/** @returns the path of `parts` below the shared data folder, or null where it does not exist. */
export function sharedData(...parts: string[]): string | null {
  return sharedPath("data", ...parts);
}

/** @returns the path of `parts` below the shared reference folder, or null where it does not exist. */
export function sharedReference(...parts: string[]): string | null {
  return sharedPath("reference", ...parts);
}

/** Skip option for node:test: false when every path is there, else the reason. */
export function needsShared(...paths: (string | null)[]): { skip: string | false } {
  return { skip: paths.every((path) => path !== null) ? false : "the shared data folder is not beside the repository" };
}
