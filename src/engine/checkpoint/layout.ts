/**
 * What a checkpoint looks like as a Hugging Face directory: a list of files, each a list of segments that
 * are either bytes made here or ranges of blobs. An imported checkpoint keeps its own files byte for byte;
 * one made here gets `config.json`, and `model.safetensors` or shards with an index, in the layout of the
 * official writers. Nothing is read: `view.ts` streams what this file lists.
 * Source: huggingface_hub split_torch_state_dict_into_shards (shard names and index), transformers save_pretrained.
 */
import { createHash } from "node:crypto";
import { llama } from "../../ops/architectures/index.ts";
import { elementCount } from "../../ops/dtype.ts";
import { CodedError } from "../../ops/errors.ts";
import { maskOfNames, type TensorMask } from "../../ops/growth/index.ts";
import type { CheckpointManifest, FileRef, JsonObject } from "../../ops/manifest.ts";
import type { Dtype, TensorRef } from "../../ops/tensor.ts";
import { configFileName, weightsFileName } from "./files.ts";
import { formatHeader } from "./safetensors.ts";
import { indexFileName } from "./weightIndex.ts";
import { torchMetadata } from "./writer.ts";

export type Segment =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array; readonly sizeBytes: number }
  | { readonly kind: "blob"; readonly blob: string; readonly offset: number; readonly sizeBytes: number }
  | MaskedSegment;

/** A float32 tensor times its mask, or `sizeBytes` of it from byte `from` on: computed while it is read. */
export interface MaskedSegment {
  readonly kind: "masked";
  readonly blob: string;
  /** First byte of the whole tensor within the blob. */
  readonly offset: number;
  readonly shape: readonly number[];
  readonly mask: TensorMask;
  readonly from: number;
  readonly sizeBytes: number;
}

export interface LayoutFile {
  readonly name: string;
  readonly sizeBytes: number;
  /** Lowercase hex; equal only for equal bytes. The file's SHA-256, except for weights assembled from blobs. */
  readonly etag: string;
  readonly segments: readonly Segment[];
}

/** Bytes of tensors in one shard, at most (a larger tensor gets a shard of its own); transformers' default was 5 GB. */
export const defaultMaxShardBytes = 5_000_000_000;

const torchDtypes: Readonly<Record<Dtype, string>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/** @returns the files of the checkpoint as it downloads, configuration first. */
export function layoutFiles(manifest: CheckpointManifest, maxShardBytes = defaultMaxShardBytes): readonly LayoutFile[] {
  const own = manifest.original === null ? synthesised(manifest, maxShardBytes) : manifest.original.map(verbatim);
  const taken = new Set(own.map((file) => file.name));
  return [...own, ...manifest.files.filter((file) => !taken.has(file.name)).map(verbatim)];
}

function verbatim({ name, blob, sizeBytes }: FileRef): LayoutFile {
  return { name, sizeBytes, etag: blob, segments: [{ kind: "blob", blob, offset: 0, sizeBytes }] };
}

function synthesised(manifest: CheckpointManifest, maxShardBytes: number): LayoutFile[] {
  const config = inline(configFileName, formatJson(viewConfig(manifest)));
  const shards = splitShards(manifest.tensors, maxShardBytes);
  const maskOf = maskOfNames(manifest);
  if (shards.length === 1) return [config, weightsFile(weightsFileName, manifest.tensors, maskOf)];
  const count = String(shards.length).padStart(5, "0");
  const names = shards.map((_shard, index) => `model-${String(index + 1).padStart(5, "0")}-of-${count}.safetensors`);
  const weights = shards.map((tensors, index) => weightsFile(names[index] as string, tensors, maskOf));
  const shardOf = shards.flatMap((tensors, at) => tensors.map(({ name }) => [name, names[at] as string] as const));
  shardOf.sort(([a], [b]) => (a < b ? -1 : 1));
  const totalSize = manifest.tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  const totalParameters = manifest.tensors.reduce((sum, tensor) => sum + elementCount(tensor.shape), 0);
  const metadata = { total_parameters: totalParameters, total_size: totalSize };
  const index = { metadata, weight_map: Object.fromEntries(shardOf) };
  return [config, ...weights, inline(indexFileName, formatJson(index))];
}

/** `config.json` with the class that loads it and the element type that the weights are stored in. */
function viewConfig(manifest: CheckpointManifest): JsonObject {
  const json = llama.formatConfig(manifest.config, manifest.configJson);
  const stored = new Set(manifest.tensors.map((tensor) => tensor.dtype));
  const [only] = stored;
  // transformers 5 calls the field dtype, 4 torch_dtype; a file keeps its own spelling.
  const field = Object.hasOwn(json, "dtype") ? "dtype" : "torch_dtype";
  const torchDtype = stored.size === 1 && only !== undefined ? torchDtypes[only] : "float32";
  return { ...json, architectures: ["LlamaForCausalLM"], [field]: torchDtype };
}

/** Fields that Python reads as float: an integer-valued number must not lose its point. */
const floatFields = [
  ...["rms_norm_eps", "rope_theta", "initializer_range", "attention_dropout"],
  ...["factor", "low_freq_factor", "high_freq_factor"],
];
const bareFloat = new RegExp(`^(\\s*"(?:${floatFields.join("|")})": -?[0-9]+)(,?)$`, "gm");

/** JSON as Python's writers format it: two spaces, a newline at the end. */
function formatJson(value: unknown): Uint8Array {
  return Buffer.from(`${JSON.stringify(value, null, 2).replace(bareFloat, "$1.0$2")}\n`, "utf8");
}

function inline(name: string, bytes: Uint8Array): LayoutFile {
  const etag = createHash("sha256").update(bytes).digest("hex");
  return { name, sizeBytes: bytes.length, etag, segments: [{ kind: "bytes", bytes, sizeBytes: bytes.length }] };
}

/** Greedy, in the order of the manifest: a shard is closed when the next tensor would make it too large. */
function splitShards(tensors: readonly TensorRef[], maxShardBytes: number): TensorRef[][] {
  const shards: TensorRef[][] = [];
  let bytes = 0;
  for (const tensor of tensors) {
    const current = shards.at(-1);
    if (current === undefined || bytes + tensor.sizeBytes > maxShardBytes) {
      shards.push([tensor]);
      bytes = tensor.sizeBytes;
    } else {
      current.push(tensor);
      bytes += tensor.sizeBytes;
    }
  }
  return shards;
}

/**
 * A safetensors file put together from a new header and the tensors where they lie. While a random growth is faded in,
 * its mask is folded into the tensors it touches, so that what downloads computes what the checkpoint does.
 * @throws unprocessable for a masked tensor that is not float32: its products would have to be rounded
 */
function weightsFile(
  name: string,
  tensors: readonly TensorRef[],
  maskOf: (name: string) => TensorMask | null,
): LayoutFile {
  const layout = formatHeader(tensors, torchMetadata);
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const segments: Segment[] = [{ kind: "bytes", bytes: layout.bytes, sizeBytes: layout.bytes.length }];
  // The header fixes order, types and shapes; with the tensors' digests it identifies the whole file.
  const hash = createHash("sha256").update(layout.bytes);
  for (const entry of layout.tensors) {
    const { blob, offset, sizeBytes, sha256, dtype, shape } = byName.get(entry.name) as TensorRef;
    hash.update(sha256);
    const mask = maskOf(entry.name);
    if (mask !== null) {
      if (dtype !== "F32") throw roundingMask(entry.name, dtype);
      hash.update(mask.axis).update(mask.factors);
      segments.push({ kind: "masked", blob, offset, shape, mask, from: 0, sizeBytes });
      continue;
    }
    const last = segments.at(-1);
    if (last?.kind === "blob" && last.blob === blob && last.offset + last.sizeBytes === offset) {
      segments[segments.length - 1] = { ...last, sizeBytes: last.sizeBytes + sizeBytes };
    } else if (sizeBytes > 0) {
      segments.push({ kind: "blob", blob, offset, sizeBytes });
    }
  }
  return { name, sizeBytes: layout.fileBytes, etag: hash.digest("hex"), segments };
}

function roundingMask(tensor: string, dtype: Dtype): CodedError {
  const problem = `${tensor} is ${dtype}, and its mask can be folded into float32 weights only`;
  const advice = "train the checkpoint first (trained weights are float32), or to the end of its ramp";
  return new CodedError("unprocessable", `the checkpoint is still being faded in: ${problem}; ${advice}`);
}
