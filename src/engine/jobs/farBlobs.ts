/** The blobs of a worker that shares nothing with the server but the database: its own directory, and the API. */
import { existsSync } from "node:fs";
import { createBlobClient } from "../checkpoint/blobClient.ts";
import { blobPath } from "../checkpoint/blobs.ts";
import type { Settings } from "../settings.ts";
import type { BlobFiles } from "../store/blobs.ts";
import { lockDirectory } from "../store/lock.ts";
import { openBlobCache, type BlobTraffic } from "./blobCache.ts";
import type { Need } from "./selector.ts";

export interface FarBlobs {
  readonly files: BlobFiles;
  readonly blobs: BlobTraffic;
  /** What it has at hand that some jobs need: never files of the server, benchmarks where it has them itself. */
  readonly needs: readonly Need[];
  close(): Promise<void>;
}

type FarSettings = Pick<Settings, "dataDir" | "blobDir" | "benchmarksDir" | "apiKey" | "blobCacheBytes">;

/** @throws data_dir_locked: what is cached belongs to one process; forbidden, where the API refuses the key */
export async function openFarBlobs(settings: FarSettings, endpoint: string): Promise<FarBlobs> {
  const { dataDir, blobDir, benchmarksDir, apiKey: key, blobCacheBytes: maxBytes } = settings;
  const client = createBlobClient({ endpoint, key });
  await client.check();
  const lock = await lockDirectory(dataDir);
  try {
    const files: BlobFiles = {
      path: (digest) => blobPath(blobDir, digest),
      shared: false,
      sizeOf: async (blob) => ((await client.has(blob)) ? blob.sizeBytes : null),
    };
    const blobs = await openBlobCache({ blobDir, client, maxBytes });
    return { files, blobs, needs: existsSync(benchmarksDir) ? ["benchmarks"] : [], close: () => lock.release() };
  } catch (error) {
    await lock.release();
    throw error;
  }
}
