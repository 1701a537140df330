/**
 * What an architecture is: one table that lists every tensor once, with its Hugging Face name, its kind and the
 * model axis that each of its own axes runs along. Shapes, validation, parameter counts, FLOPs and the growth
 * operators all derive from the table, so a new architecture is a new table. It holds no numbers of any one model.
 */
import type { JsonObject } from "../manifest.ts";
import type { Dtype, TensorInfo } from "../tensor.ts";
import type { LlamaConfig } from "./llamaConfig.ts";

/** The axes of a model along which a tensor can extend. `query` is heads x head_dim, `keyValue` kv heads x head_dim. */
export type Axis = "vocab" | "hidden" | "intermediate" | "query" | "keyValue";

/**
 * What a tensor does. `linear` maps its last axis to its first (y = x W^T), `embedding` and `head` are the
 * vocabulary's two tables, `norm` is a gain, `bias` is added to a linear's output.
 */
export type TensorKind = "embedding" | "linear" | "bias" | "norm" | "head";

/** The part a tensor plays, once per layer or once per model. */
export type TensorRole =
  | "embedding"
  | "inputNorm"
  | "query"
  | "key"
  | "value"
  | "output"
  | "postAttentionNorm"
  | "gate"
  | "up"
  | "down"
  | "finalNorm"
  | "head";

export interface TensorRow {
  /** Hugging Face name; `{layer}` stands for the layer's index, from 0. */
  readonly pattern: string;
  readonly kind: TensorKind;
  readonly role: TensorRole;
  readonly axes: readonly Axis[];
  /** Repeated in every layer. */
  readonly perLayer: boolean;
  /** Whether a model of that configuration has it. */
  readonly when: (config: LlamaConfig) => boolean;
}

/** One tensor of one model: its row of the table, its layer (null for the model's own), its shape. */
export interface TensorSpec {
  readonly name: string;
  readonly row: TensorRow;
  readonly layer: number | null;
  readonly shape: readonly number[];
}

export interface ParameterCounts {
  readonly total: number;
  /** Without the embedding and the output head (the paper's n and N). */
  readonly nonEmbedding: number;
}

export interface Architecture {
  readonly name: "llama";
  /** In the order in which a model applies them. */
  readonly rows: readonly TensorRow[];
  /** @throws checkpoint_corrupt, checkpoint_unsupported */
  parseConfig(json: unknown): LlamaConfig;
  formatConfig(config: LlamaConfig, rawJson: JsonObject): JsonObject;
  axisSize(config: LlamaConfig, axis: Axis): number;
  /** Every tensor of the model, in the order of the table, layer by layer. */
  specs(config: LlamaConfig): readonly TensorSpec[];
  /** The same as names, shapes and one element type (default F32). */
  expectedTensors(config: LlamaConfig, dtype?: Dtype): readonly TensorInfo[];
  countParameters(config: LlamaConfig): ParameterCounts;
}
