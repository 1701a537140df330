/**
 * Registers a checkpoint: from a directory, finished uploads or the hub, or with random weights. The files
 * are read, checked and hashed in a compute process, because they come from outside.
 */
import { link, mkdir } from "node:fs/promises";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { tokenizerOf, type CheckpointManifest, type FileRef } from "../../../ops/manifest.ts";
import { temporaryDir } from "../../checkpoint/blobs.ts";
import type { ImportResult, LocalFile } from "../../checkpoint/importers.ts";
import type { ComputeRequest } from "../computeProtocol.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { CheckpointSource, TokenizerChoice } from "../requests.ts";
import { findUploads, removeUploads } from "../uploads.ts";
import { collect } from "./collect.ts";

export const checkpointImport: Handler<"checkpoint_import"> = async (request, context) => {
  const { source } = request;
  const made = await collect<ImportResult & { commit?: string }>(
    context.compute(await importRequest(source, context)),
    context,
  );
  if (made === null) return "stopped";
  const isRandom = source.type === "random";
  const tokenizer = isRandom ? await chosenTokenizer(source.tokenizer, context) : null;
  const manifest: CheckpointManifest = {
    ...made.result.manifest,
    ...(tokenizer === "bytes" ? { tokenizer } : {}),
    ...(Array.isArray(tokenizer) ? { files: tokenizer } : {}),
  };
  return {
    checkpoint: {
      ...{ name: request.name ?? null, manifest, digest: made.result.digest },
      relation: isRandom ? "initialized" : "imported",
      ...{ parents: [], tokensSeen: 0, flopsSpent: 0, dataSeen: {}, receipt: null },
      metadata: request.metadata ?? {},
      job: context.job.id,
      blobs: made.result.blobs,
    },
    result: ({ checkpoint }) => ({
      checkpoint: checkpoint?.id ?? null,
      // what the hub's branch or tag was at that time
      ...(made.result.commit === undefined ? {} : { commit: made.result.commit }),
    }),
    ...(source.type === "upload"
      ? { afterwards: () => removeUploads(context.settings.uploadsDir, source.upload) }
      : {}),
  };
};

async function importRequest(source: CheckpointSource, { settings }: HandlerContext): Promise<ComputeRequest> {
  const { blobDir, importRoots } = settings;
  switch (source.type) {
    case "random":
      return { kind: "initialize", work: { configJson: source.config, seed: source.seed ?? 0, blobDir } };
    case "directory": {
      const { path, mode = "reference" } = source;
      return { kind: "import", work: { from: "directory", path, mode, importRoots, blobDir } };
    }
    case "upload": {
      const files = await findUploads(settings.uploadsDir, source.upload);
      return { kind: "import", work: { from: "files", files: await lendFiles(files, blobDir), blobDir } };
    }
    case "hub": {
      const { hubEndpoint: endpoint, hubToken: token, hubTimeoutMs: timeoutMs } = settings;
      const { repository, revision = null } = source;
      return { kind: "import", work: { from: "hub", repository, revision, endpoint, token, timeoutMs, blobDir } };
    }
  }
}

/**
 * The importer takes its files away. It gets second names of the uploads, so that an attempt that dies half
 * way leaves them for the next one; where the file system has no links it gets the uploads themselves.
 */
async function lendFiles(files: readonly LocalFile[], blobDir: string): Promise<LocalFile[]> {
  const folder = temporaryDir(blobDir);
  await mkdir(folder, { recursive: true });
  const lent: LocalFile[] = [];
  for (const { name, path } of files) {
    const second = join(folder, randomUUID());
    const linked = await link(path, second).then(
      () => true,
      () => false,
    );
    lent.push({ name, path: linked ? second : path });
  }
  return lent;
}

/** @returns "bytes", the files of the checkpoint that has the tokenizer, or null for none. */
async function chosenTokenizer(
  choice: TokenizerChoice | undefined,
  { store }: HandlerContext,
): Promise<"bytes" | FileRef[] | null> {
  if (choice === undefined || choice === "bytes") return choice ?? null;
  const owner = await store.checkpoints.get(choice.checkpoint);
  const tokenizer = tokenizerOf(owner.id, owner.manifest);
  return tokenizer?.kind === "checkpoint" ? [...tokenizer.files] : null;
}
