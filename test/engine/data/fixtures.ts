/** Small corpora on disk, built into datasets with the bytes tokenizer, whose ids a reader can check by eye. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import type { BuildDatasetOptions, BuiltDataset } from "../../../src/engine/data/buildDataset.ts";
import { buildDataset } from "../../../src/engine/data/buildDataset.ts";
import { PackedTokens } from "../../../src/engine/data/packedTokens.ts";
import type { DatasetBuildSource } from "../../../src/engine/data/sources.ts";
import { bytesEosTokenId, createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";
import type { ResolvedDataset } from "../../../src/ops/manifest.ts";

export interface Workplace extends AsyncDisposable {
  readonly path: string;
  readonly blobDir: string;
  /** Writes files below `path`, by name. */
  write(files: Readonly<Record<string, string | Uint8Array>>): Promise<void>;
}

export async function createWorkplace(): Promise<Workplace> {
  const root = await mkdtemp(join(tmpdir(), "cambium-data-"));
  const path = join(root, "corpus");
  await mkdir(path);
  return {
    path,
    blobDir: join(root, "blobs"),
    async write(files) {
      for (const [name, content] of Object.entries(files)) {
        await mkdir(dirname(join(path, name)), { recursive: true });
        await writeFile(join(path, name), content);
      }
    },
    [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }),
  };
}

export async function build(
  workplace: Workplace,
  options: Partial<BuildDatasetOptions> & { source?: DatasetBuildSource } = {},
): Promise<BuiltDataset> {
  return buildDataset({
    source: { type: "directory", path: workplace.path, importRoots: [workplace.path] },
    tokenizer: { kind: "bytes" },
    tokenizerBlobs: {},
    validationFraction: 0,
    seed: 1,
    blobDir: workplace.blobDir,
    signal: new AbortController().signal,
    onProgress: () => undefined,
    threads: 1,
    ...options,
  });
}

export function resolve(workplace: Workplace, built: BuiltDataset): ResolvedDataset {
  const blobs = Object.fromEntries(built.blobs.map((blob) => [blob.digest, blobLocation(workplace.blobDir, blob)]));
  return { id: "data_test", manifest: built.manifest, blobs };
}

/** All ids of one side. */
export function readIds(dataset: ResolvedDataset, side: "train" | "validation"): number[] {
  const tokens = new PackedTokens(dataset, side);
  const ids = new Int32Array(tokens.length);
  tokens.read(0, ids);
  tokens.close();
  return Array.from(ids);
}

/** The documents of one side as text, in packed order; fails where one is not ended by EOS. */
export function readDocuments(dataset: ResolvedDataset, side: "train" | "validation"): string[] {
  const documents: string[] = [];
  let current: number[] = [];
  for (const id of readIds(dataset, side)) {
    if (id === bytesEosTokenId) {
      documents.push(createBytesTokenizer().decode(current, { skipSpecialTokens: false }));
      current = [];
    } else current.push(id);
  }
  if (current.length > 0) throw new Error("the last document has no end-of-sequence token");
  return documents;
}
