/**
 * Brings files of an import into the blob store: copied (hashed while written), moved (for files that are
 * ours to take, such as an upload's), or left where they are and referred to. What each gives is the same:
 * the file as a blob, and the path under which its bytes can be read from now on.
 */
import { randomUUID } from "node:crypto";
import { mkdir, rename, utimes } from "node:fs/promises";
import { join } from "node:path";
import { CodedError } from "../../ops/errors.ts";
import type { NewBlob } from "../../ops/events.ts";
import { asStorageError, blobPath, createBlobWriter, publishFiles, removeIfThere, temporaryDir } from "./blobs.ts";
import { assertUnchanged, openSource, type SourceFile } from "./confine.ts";
import { quoted } from "./strictJson.ts";

/** A blob that the database may not know yet. The shape of the store's rows. */
export interface ImportedBlob extends NewBlob {
  /** Null: a file of the blob directory. Else a file registered by reference. */
  readonly external: { readonly path: string; readonly mtimeMs: number } | null;
}

/** A file of a checkpoint with the blob that holds its bytes. */
export interface PlacedFile {
  readonly name: string;
  readonly blob: ImportedBlob;
  readonly path: string;
}

export interface PlaceOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the bytes done since the call before. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

const copyChunkBytes = 1 << 20;

/** Copies a file into the store. @throws source_changed when it changes meanwhile, storage_full */
export async function copyFile(blobDir: string, file: SourceFile, options: PlaceOptions = {}): Promise<PlacedFile> {
  const handle = await openSource(file);
  try {
    const writer = await createBlobWriter(blobDir);
    try {
      const buffer = new Uint8Array(Math.min(copyChunkBytes, Math.max(1, file.sizeBytes)));
      for (;;) {
        options.signal?.throwIfAborted();
        const { bytesRead } = await handle.read(buffer, 0, buffer.length, writer.sizeBytes);
        if (bytesRead === 0) break;
        await writer.write(buffer.subarray(0, bytesRead));
        if (writer.sizeBytes > file.sizeBytes) break;
        options.onBytes?.(bytesRead);
      }
      await assertUnchanged(file, handle);
      return placed(blobDir, file.name, await writer.finish());
    } finally {
      await writer.abort();
    }
  } finally {
    await handle.close();
  }
}

/**
 * Takes a file away from where it lies into the store; on another file system it is copied.
 * @param sha256 its digest, computed by the caller
 * @throws source_changed, storage_full
 */
export async function moveFile(
  blobDir: string,
  file: SourceFile,
  sha256: string,
  options: PlaceOptions = {},
): Promise<PlacedFile> {
  const blob = { digest: sha256, sizeBytes: file.sizeBytes };
  const temporary = join(temporaryDir(blobDir), randomUUID());
  const handle = await openSource(file);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
  try {
    await mkdir(temporaryDir(blobDir), { recursive: true });
    await rename(file.path, temporary);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw asStorageError(error);
    const copy = await copyFile(blobDir, file, options);
    if (copy.blob.digest !== sha256) {
      throw new CodedError("source_changed", `${quoted(file.name)} changed while it was read`);
    }
    await removeIfThere(file.path);
    return copy;
  }
  try {
    // Young again: a sweep must not take it for a blob that nobody came to refer to.
    const now = new Date();
    await utimes(temporary, now, now);
    await publishFiles(blobDir, [{ path: temporary, blob }]);
  } catch (error) {
    throw asStorageError(error);
  }
  return placed(blobDir, file.name, blob);
}

/** Refers to a file where it lies. @throws source_changed when it is no longer as it was looked at */
export async function referTo(file: SourceFile, sha256: string): Promise<PlacedFile> {
  const handle = await openSource(file);
  await handle.close();
  const external = { path: file.path, mtimeMs: file.mtimeMs };
  return { name: file.name, path: file.path, blob: { digest: sha256, sizeBytes: file.sizeBytes, external } };
}

/** @returns a blob of the store as a placed file. */
export function placed(blobDir: string, name: string, blob: NewBlob): PlacedFile {
  return { name, path: blobPath(blobDir, blob.digest), blob: { ...blob, external: null } };
}
