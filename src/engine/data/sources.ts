/**
 * Which files a dataset is made of. A directory is walked inside the import roots, in the order of its paths,
 * without following links that leave them; hidden files and other kinds of file are passed over. An upload is
 * a list of files that are already ours. Inline texts need no file. Nothing is read here, only looked at.
 */
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { SourceFile } from "../checkpoint/confine.ts";
import { confine } from "../checkpoint/confine.ts";

/** What a dataset is built from. */
export type DatasetBuildSource =
  /** A directory (or one file) inside one of `importRoots`. */
  | { readonly type: "directory"; readonly path: string; readonly importRoots: readonly string[] }
  /** Files that lie in a directory of ours, such as finished uploads; `name` tells the kind. */
  | { readonly type: "files"; readonly files: readonly { readonly name: string; readonly path: string }[] }
  | { readonly type: "text"; readonly text: string | readonly string[] };

/** A corpus file: how it is cut into documents, and its state when it was looked at. */
export interface CorpusFile extends SourceFile {
  readonly kind: "text" | "jsonl";
}

/** Files in one dataset, at most. */
export const maxFiles = 200_000;
/** Entries looked at in a walk, at most: a bound on the work that a wrong directory can cause. */
export const maxWalkEntries = 2_000_000;
/** Levels of directories below the one given. */
export const maxWalkDepth = 16;
/** Bytes of all files of a dataset together. */
export const maxCorpusBytes = 1024 ** 4;

const kinds: Readonly<Record<string, CorpusFile["kind"]>> = { txt: "text", md: "text", jsonl: "jsonl" };

function kindOf(name: string): CorpusFile["kind"] | null {
  const dot = name.lastIndexOf(".");
  const extension = dot < 0 ? "" : name.slice(dot + 1).toLowerCase();
  return Object.hasOwn(kinds, extension) ? (kinds[extension] ?? null) : null;
}

function invalid(message: string): CodedError {
  return new CodedError("dataset_invalid", message);
}

async function lookAt(path: string, name: string, kind: CorpusFile["kind"]): Promise<CorpusFile> {
  const stats = await stat(path).catch((cause: unknown) => {
    throw new CodedError("dataset_invalid", `${name}: the file cannot be read`, { cause });
  });
  if (!stats.isFile()) throw invalid(`${name}: not a regular file`);
  return { name, path, kind, sizeBytes: stats.size, mtimeMs: stats.mtimeMs };
}

/** Relative names of the corpus files below a directory, sorted by code unit so that no locale matters. */
async function walk(root: string): Promise<string[]> {
  const found: string[] = [];
  const pending: { path: string; prefix: string; depth: number }[] = [{ path: root, prefix: "", depth: 0 }];
  let looked = 0;
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    for (const entry of await readdir(folder.path, { withFileTypes: true })) {
      looked += 1;
      if (looked > maxWalkEntries) throw invalid(`more than ${maxWalkEntries} entries below the directory`);
      if (entry.name.startsWith(".")) continue;
      const name = folder.prefix + entry.name;
      if (entry.isDirectory()) {
        if (folder.depth >= maxWalkDepth) throw invalid(`${name}: directories nested more than ${maxWalkDepth} deep`);
        pending.push({ path: join(folder.path, entry.name), prefix: `${name}/`, depth: folder.depth + 1 });
      } else if ((entry.isFile() || entry.isSymbolicLink()) && kindOf(entry.name) !== null) {
        found.push(name);
        if (found.length > maxFiles) throw invalid(`more than ${maxFiles} files below the directory`);
      }
    }
  }
  return found.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

async function listBelow(source: Extract<DatasetBuildSource, { type: "directory" }>): Promise<CorpusFile[]> {
  const root = await confine(source.path, source.importRoots);
  if ((await stat(root)).isFile()) {
    const kind = kindOf(root);
    if (kind === null) throw invalid(`${basename(root)}: a .txt, .md or .jsonl file is wanted`);
    return [await lookAt(root, basename(root), kind)];
  }
  const files: CorpusFile[] = [];
  for (const name of await walk(root)) {
    // Resolved again: an entry may be a link, which is fine as long as it stays inside the roots.
    const path = await confine(join(root, name), source.importRoots);
    const kind = kindOf(name);
    if (kind !== null) files.push(await lookAt(path, name, kind));
  }
  return files;
}

/**
 * Lists the files of a source; empty for inline text.
 * @throws dataset_invalid when there is nothing to read or a limit is passed; forbidden, checkpoint_missing_file
 *   and invalid_request for the path of a directory
 */
export async function listCorpusFiles(source: DatasetBuildSource): Promise<CorpusFile[]> {
  if (source.type === "text") return [];
  let files: CorpusFile[];
  if (source.type === "directory") files = await listBelow(source);
  else {
    if (source.files.length > maxFiles) throw invalid(`${source.files.length} files, at most ${maxFiles}`);
    files = [];
    for (const { name, path } of source.files) {
      const kind = kindOf(name);
      if (kind === null) throw invalid(`${name}: a .txt, .md or .jsonl file is wanted`);
      files.push(await lookAt(path, name, kind));
    }
  }
  if (files.length === 0) throw invalid("no .txt, .md or .jsonl file found");
  const total = files.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (total > maxCorpusBytes) throw invalid(`${total} bytes of text, at most ${maxCorpusBytes}`);
  return files;
}
