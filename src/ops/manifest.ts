/**
 * A checkpoint is a manifest of references: the configuration, one reference per tensor, and the small
 * files (tokenizer and the like) that travel with it verbatim. Bytes live in content-addressed blobs, so
 * two manifests that name the same bytes share them. The digest identifies the content and does not
 * depend on how tensors were cut into files.
 */
import type { LlamaConfig } from "./architectures/llamaConfig.ts";
import type { TensorRef } from "./tensor.ts";

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

/** A small file carried verbatim in a checkpoint, or a weights file in the layout it was imported in. */
export interface FileRef {
  /** Name within the Hugging Face directory; never a path. */
  readonly name: string;
  readonly blob: string;
  readonly sizeBytes: number;
}

export interface CheckpointManifest {
  readonly architecture: "llama";
  readonly config: LlamaConfig;
  /** `config.json` as parsed: unknown fields survive growth and training. */
  readonly configJson: JsonObject;
  readonly tensors: readonly TensorRef[];
  /** tokenizer.json and its companions, generation_config.json, chat templates: verbatim. */
  readonly files: readonly FileRef[];
  /**
   * The files of an imported directory that hold config, index and weights, so that they download byte for
   * byte. Null for a checkpoint made here, whose files are synthesised from `tensors`.
   */
  readonly original: readonly FileRef[] | null;
  /** AdamW moments kept with the weights, or null. */
  readonly optimizer: OptimizerRef | null;
  /** Set for a model whose tokens are bytes: it has no tokenizer files and still speaks text. */
  readonly tokenizer?: "bytes";
  /** While the new parts of a random growth are faded in: the model computes with its mask. Absent or null: plain. */
  readonly growthMask?: GrowthMask | null;
  /** What the last growth in the checkpoint's lineage added, for trainings of just that; absent where nothing grew. */
  readonly grown?: GrownParts;
}

/** What a growth added. Tensors are the unit: one with a single new element is named whole. */
export interface GrownParts {
  /** Layers that the growth added, ascending. */
  readonly layers: readonly number[];
  /** Names of the tensors that it built, and of all tensors of added layers. */
  readonly tensors: readonly string[];
}

/**
 * The mask of a random growth, a training state: new parts count c, which goes from 0 to 1 linearly over updates of the
 * optimizer. What it means for each tensor is in growth/mask.ts.
 */
export interface GrowthMask {
  /** Updates made since the growth. */
  readonly step: number;
  /** Updates from 0 to 1, of one stage. */
  readonly rampSteps: number;
  /** 1: all at once; 3: intermediate size, hidden size and heads one after the other, as far as they grew. */
  readonly stages: 1 | 3;
  /** New layers, whose two branches are masked; none where the width grew. */
  readonly layers: readonly number[];
  /** The source's sizes: what exceeds them is masked. Null where the depth grew. */
  readonly sourceSizes: SourceSizes | null;
}

/** Sizes that width growth changes. */
export type SourceSizes = Pick<
  LlamaConfig,
  "hiddenSize" | "intermediateSize" | "numAttentionHeads" | "numKeyValueHeads" | "headDim"
>;

/** First and second moments, one F32 tensor each per weight, under the weight's own name. */
export interface OptimizerRef {
  readonly type: "adamw";
  /** Updates made so far; AdamW's bias correction needs it. */
  readonly step: number;
  readonly firstMoments: readonly TensorRef[];
  readonly secondMoments: readonly TensorRef[];
  /** Of a training that scales its loss: what the next one begins with. */
  readonly lossScale?: LossScaleState;
}

/** By what a loss is multiplied so that small gradients are kept in half precision. */
export interface LossScaleState {
  /** A power of two. */
  readonly scale: number;
  /** Updates made since it last changed. */
  readonly goodUpdates: number;
}

/** Where blobs of a manifest lie on this machine; the only thing a compute process needs beside it. */
export interface BlobLocation {
  readonly path: string;
  readonly sizeBytes: number;
  /** For files registered by reference: the modification time (ms) at registration. */
  readonly mtimeMs: number | null;
}

/** A manifest with every blob it names resolved to a local file. */
export interface ResolvedCheckpoint {
  readonly id: string;
  readonly manifest: CheckpointManifest;
  readonly blobs: Readonly<Record<string, BlobLocation>>;
}

/** A file of token ids, little-endian, without a header. */
export interface TokenShard {
  readonly blob: string;
  readonly numTokens: number;
}

export type TokenizerRef =
  | { readonly kind: "bytes" }
  /** `tokenizer.json` and `tokenizer_config.json` of the checkpoint, as blobs that outlive it. */
  | { readonly kind: "checkpoint"; readonly checkpoint: string; readonly files: readonly FileRef[] };

/** @returns the tokenizer that a checkpoint speaks through, or null where it knows token ids only. */
export function tokenizerOf(
  checkpoint: string,
  manifest: Pick<CheckpointManifest, "files" | "tokenizer">,
): TokenizerRef | null {
  if (manifest.tokenizer === "bytes") return { kind: "bytes" };
  if (!manifest.files.some((file) => file.name === "tokenizer.json")) return null;
  return { kind: "checkpoint", checkpoint, files: manifest.files };
}

export interface DatasetManifest {
  readonly tokenizer: TokenizerRef;
  readonly vocabSize: number;
  /** Written after every document. */
  readonly eosTokenId: number;
  readonly tokenDtype: "u16" | "u32";
  readonly train: readonly TokenShard[];
  readonly validation: readonly TokenShard[];
  readonly numTokens: number;
  readonly numValidationTokens: number;
  readonly numDocuments: number;
  readonly numValidationDocuments: number;
  /** SHA-256 over tokenizer, split rule and shard digests. */
  readonly digest: string;
}

export interface ResolvedDataset {
  readonly id: string;
  readonly manifest: DatasetManifest;
  readonly blobs: Readonly<Record<string, BlobLocation>>;
}
