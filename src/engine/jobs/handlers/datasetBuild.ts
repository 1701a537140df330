/** Builds a dataset: text to packed token shards, in a compute process. */
import { tokenizerOf, type BlobLocation, type DatasetManifest, type TokenizerRef } from "../../../ops/manifest.ts";
import { tokenizerFileNames } from "../../tokenizer/loadTokenizer.ts";
import { CodedError } from "../../../ops/errors.ts";
import type { DatasetBuildSource } from "../../data/sources.ts";
import { defaultValidationFraction } from "../checks.ts";
import type { DatasetWork } from "../computeProtocol.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { DatasetRequest } from "../requests.ts";
import { findUploads, removeUploads } from "../uploads.ts";
import { collect, ownBlobs } from "./collect.ts";

export const datasetBuild: Handler<"dataset_build"> = async (request, context) => {
  const { source } = request;
  const work: DatasetWork = {
    source: await buildSource(request, context),
    ...(await resolveTokenizer(request, context)),
    validationFraction: request.validation_fraction ?? defaultValidationFraction,
    seed: request.seed ?? 0,
    blobDir: context.settings.blobDir,
  };
  const made = await collect<DatasetManifest>(context.compute({ kind: "dataset", work }), context);
  if (made === null) return "stopped";
  const manifest = made.result;
  return {
    dataset: {
      ...{ name: request.name, manifest, metadata: request.metadata ?? {}, job: context.job.id },
      blobs: ownBlobs(made.blobs),
    },
    result: ({ dataset }) => ({
      dataset: dataset?.id ?? null,
      num_tokens: manifest.numTokens,
      num_validation_tokens: manifest.numValidationTokens,
    }),
    ...(source.type === "upload"
      ? { afterwards: () => removeUploads(context.settings.uploadsDir, source.upload) }
      : {}),
  };
};

async function buildSource({ source }: DatasetRequest, { settings }: HandlerContext): Promise<DatasetBuildSource> {
  switch (source.type) {
    case "text":
      return { type: "text", text: source.text };
    case "directory":
      return { type: "directory", path: source.path, importRoots: settings.importRoots };
    case "upload":
      return { type: "files", files: await findUploads(settings.uploadsDir, source.upload) };
  }
}

async function resolveTokenizer(
  { tokenizer: choice }: DatasetRequest,
  { store }: HandlerContext,
): Promise<{ tokenizer: TokenizerRef; tokenizerBlobs: Record<string, BlobLocation> }> {
  if (choice === "bytes") return { tokenizer: { kind: "bytes" }, tokenizerBlobs: {} };
  const owner = await store.checkpoints.get(choice.checkpoint);
  const found = tokenizerOf(owner.id, owner.manifest);
  if (found === null) throw new CodedError("unprocessable", `${owner.id} has no tokenizer`);
  if (found.kind === "bytes") return { tokenizer: found, tokenizerBlobs: {} };
  const names: readonly string[] = tokenizerFileNames;
  const files = found.files.filter((file) => names.includes(file.name));
  const located = await store.blobs.locate(files.map((file) => file.blob));
  return { tokenizer: { ...found, files }, tokenizerBlobs: { ...located } };
}
