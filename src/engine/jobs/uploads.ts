/**
 * Finished uploads as files. The API stores an upload as a file named by its id, beside a JSON file that holds
 * its length and metadata (the layout of tus's FileStore). This file only finds and checks them; names given
 * by clients are hostile until checked.
 */
import { readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { LocalFile } from "../checkpoint/importers.ts";

const idPattern = /^[A-Za-z0-9_-]{1,128}$/;
const maxFiles = 10_000;
const maxNameChars = 255;
const maxInfoBytes = 64 * 1024;

/**
 * @param upload id or ids, as in the request
 * @param where pointer to it
 * @returns each file under the name that its uploader gave it
 * @throws not_found, conflict for an unfinished upload, invalid_request; with a pointer
 */
export async function findUploads(
  uploadsDir: string,
  upload: string | readonly string[],
  where = "/source/upload",
): Promise<LocalFile[]> {
  const ids = typeof upload === "string" ? [upload] : upload;
  if (ids.length === 0 || ids.length > maxFiles) {
    throw pointed("invalid_request", where, `has ${ids.length} ids, wanted 1 to ${maxFiles}`);
  }
  const files: LocalFile[] = [];
  for (const [index, id] of ids.entries()) {
    const pointer = typeof upload === "string" ? where : `${where}/${index}`;
    files.push(await findUpload(uploadsDir, id, pointer));
  }
  const names = files.map((file) => file.name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice === undefined) return files;
  throw pointed("invalid_request", where, `has two files named ${JSON.stringify(twice)}`);
}

async function findUpload(uploadsDir: string, id: string, pointer: string): Promise<LocalFile> {
  const path = join(uploadsDir, id);
  const unknown = pointed("not_found", pointer, `no upload ${JSON.stringify(id.slice(0, 128))}`);
  if (!idPattern.test(id)) throw unknown;
  const file = await stat(path).catch(() => null);
  const text = await readFile(`${path}.json`, "utf8").catch(() => null);
  if (!file?.isFile() || text === null || text.length > maxInfoBytes) throw unknown;
  const info = parseInfo(text);
  if (info === null) throw unknown;
  if (info.sizeBytes === null || file.size !== info.sizeBytes) {
    throw pointed("conflict", pointer, `upload ${id} has ${file.size} of ${String(info.sizeBytes ?? "?")} bytes`);
  }
  return { name: checkedName(info.name, id, pointer), path };
}

/** Removes the files of uploads that were used up. */
export async function removeUploads(uploadsDir: string, upload: string | readonly string[]): Promise<void> {
  for (const id of typeof upload === "string" ? [upload] : upload) {
    if (!idPattern.test(id)) continue;
    await rm(join(uploadsDir, id), { force: true });
    await rm(join(uploadsDir, `${id}.json`), { force: true });
  }
}

function parseInfo(text: string): { sizeBytes: number | null; name: unknown } | null {
  try {
    const info = JSON.parse(text) as { size?: unknown; metadata?: { filename?: unknown } | null } | null;
    if (typeof info !== "object" || info === null) return null;
    return { sizeBytes: typeof info.size === "number" ? info.size : null, name: info.metadata?.filename };
  } catch {
    return null;
  }
}

function checkedName(name: unknown, id: string, pointer: string): string {
  const isPlain = typeof name === "string" && name.length > 0 && name.length <= maxNameChars;
  if (isPlain && !/[/\\\u0000-\u001f]/.test(name) && name !== "." && name !== "..") return name;
  throw pointed("invalid_request", pointer, `upload ${id} needs a plain file name as its metadata "filename"`);
}

function pointed(code: "not_found" | "conflict" | "invalid_request", pointer: string, detail: string): CodedError {
  return new CodedError(code, `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}
