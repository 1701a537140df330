/**
 * Keeps reading inside the directories that the operator allowed. Every path is resolved through all its
 * symbolic links first, and only the resolved path is compared and opened: a link is fine while it stays
 * inside (the Hugging Face cache links `snapshots/` to `blobs/`), and refused as soon as it leaves.
 */
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open, readdir, realpath, stat } from "node:fs/promises";
import { isAbsolute, join, relative, sep } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import { quoted } from "./strictJson.ts";

/** Entries of a directory that is read as a checkpoint, at most. */
export const maxDirectoryEntries = 10_000;

/** A file of a checkpoint before it is read: confined, regular, and its state when it was looked at. */
export interface SourceFile {
  /** Name within the Hugging Face directory. */
  readonly name: string;
  /** Without symbolic links. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly mtimeMs: number;
}

/** @returns whether `path` is `root` or lies below it; both without symbolic links. */
function inside(root: string, path: string): boolean {
  const way = relative(root, path);
  return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}

async function resolved(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new CodedError("checkpoint_missing_file", `${quoted(path)} does not exist`, { cause });
    }
    if (code === "ELOOP") throw new CodedError("checkpoint_corrupt", `${quoted(path)} is a loop of links`, { cause });
    throw new CodedError("forbidden", `${quoted(path)} cannot be read`, { cause });
  }
}

/**
 * @param path an absolute path
 * @param importRoots directories from which files may be read; none allows nothing
 * @returns the path without symbolic links
 * @throws forbidden when it lies outside every root, invalid_request when it is not an absolute path,
 *   checkpoint_missing_file when it does not exist
 */
export async function confine(path: string, importRoots: readonly string[]): Promise<string> {
  if (path.includes("\0") || !isAbsolute(path)) {
    throw new CodedError("invalid_request", `${quoted(path)} is not an absolute path`);
  }
  if (importRoots.length === 0) throw new CodedError("forbidden", "no import roots are configured");
  const roots: string[] = [];
  for (const root of importRoots) {
    // A root that does not exist (yet) holds nothing.
    roots.push(await realpath(root).catch(() => ""));
  }
  const outside = new CodedError("forbidden", `${quoted(path)} lies outside the import roots`);
  let real: string;
  try {
    real = await resolved(path);
  } catch (error) {
    // What exists outside the roots is nobody's business: the answer is the same whether it does or not.
    const named = roots.concat(importRoots).some((root) => root !== "" && inside(root, join(path)));
    throw named ? error : outside;
  }
  if (!roots.some((root) => root !== "" && inside(root, real))) throw outside;
  return real;
}

/**
 * Looks at one file of a directory.
 * @throws forbidden when a link leads out of the roots, checkpoint_corrupt when it is not a regular file,
 *   checkpoint_missing_file
 */
export async function confineFile(
  directory: string,
  name: string,
  importRoots: readonly string[],
): Promise<SourceFile> {
  const path = await confine(join(directory, name), importRoots);
  const stats = await stat(path);
  if (!stats.isFile()) throw new CodedError("checkpoint_corrupt", `${quoted(name)} is not a regular file`);
  return { name, path, sizeBytes: stats.size, mtimeMs: stats.mtimeMs };
}

/** @returns the names in a confined directory. @throws checkpoint_corrupt, checkpoint_unsupported */
export async function listDirectory(directory: string): Promise<ReadonlySet<string>> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (cause) {
    const isFile = (cause as NodeJS.ErrnoException).code === "ENOTDIR";
    const problem = isFile ? "is not a directory" : "cannot be read";
    throw new CodedError(isFile ? "checkpoint_corrupt" : "forbidden", `${quoted(directory)} ${problem}`, { cause });
  }
  if (names.length > maxDirectoryEntries) {
    const problem = `${names.length} entries, at most ${maxDirectoryEntries}`;
    throw new CodedError("checkpoint_unsupported", `${quoted(directory)}: ${problem}`);
  }
  return new Set(names);
}

/**
 * Opens a file that was looked at, and makes sure that it is still the same.
 * @throws source_changed
 */
export async function openSource(file: SourceFile): Promise<FileHandle> {
  // The path holds no link any more; O_NOFOLLOW makes one put there since then an error, O_NONBLOCK keeps
  // a pipe put there from blocking.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(file.path, flags).catch((cause: unknown) => {
    throw new CodedError("source_changed", `${quoted(file.name)} can no longer be opened`, { cause });
  });
  try {
    await assertUnchanged(file, handle);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** @throws source_changed when the open file is not in the state it was looked at in */
export async function assertUnchanged(file: SourceFile, handle: FileHandle): Promise<void> {
  const stats = await handle.stat();
  if (!stats.isFile() || stats.size !== file.sizeBytes || stats.mtimeMs !== file.mtimeMs) {
    throw new CodedError("source_changed", `${quoted(file.name)} changed while it was read`);
  }
}

/**
 * Reads a small file whole.
 * @throws checkpoint_unsupported when it is larger than `maxBytes`, source_changed
 */
export async function readSource(file: SourceFile, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  if (file.sizeBytes > maxBytes) {
    const problem = `${file.sizeBytes} bytes, at most ${maxBytes} are read`;
    throw new CodedError("checkpoint_unsupported", `${quoted(file.name)}: ${problem}`);
  }
  const handle = await openSource(file);
  try {
    return await readFully(handle, file, 0, file.sizeBytes);
  } finally {
    await handle.close();
  }
}

/** Reads exactly `length` bytes from `offset` on. @throws source_changed when the file ends before that */
export async function readFully(
  handle: FileHandle,
  file: SourceFile,
  offset: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const target = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(target, done, length - done, offset + done);
    if (bytesRead === 0) {
      throw new CodedError("source_changed", `${quoted(file.name)} became shorter while it was read`);
    }
    done += bytesRead;
  }
  return target;
}
