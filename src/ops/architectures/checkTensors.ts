/**
 * Holds the tensors that a checkpoint offers against what its configuration asks for: every expected tensor, once,
 * in its exact shape, and none besides. Two kinds of extra are known and left out: the rotary buffers
 * (`rotary_emb.inv_freq`) that old files carry, which follow from the configuration, and, where the head is tied,
 * an `lm_head.weight` beside the embedding.
 *
 * The tied rule: `lm_head.weight` may be absent, or present with the embedding's shape. Present, it has to hold the
 * embedding's values; where both digests are known and element types agree, a difference is refused, because
 * libraries disagree on which of the two then counts.
 */
import { CodedError } from "../errors.ts";
import type { TensorInfo } from "../tensor.ts";
import { tensorSpecs } from "./llama.ts";
import type { LlamaConfig } from "./llamaConfig.ts";

const embeddingName = "model.embed_tokens.weight";
const headName = "lm_head.weight";
const rotaryBuffer = /^model\.(layers\.[0-9]{1,4}\.self_attn\.)?rotary_emb\.inv_freq$/;

/** Names listed in one message, at most. */
const maxNamed = 5;

export interface CheckedTensors<Tensor> {
  /** Those the model computes with, in the order of the architecture's table. */
  readonly tensors: readonly Tensor[];
  /** Names of those that are left out. */
  readonly ignored: readonly string[];
}

/** Whether a tensor of that name is a rotary buffer, whatever its element type. */
export function isRotaryBuffer(name: string): boolean {
  return rotaryBuffer.test(name);
}

/**
 * @throws checkpoint_corrupt for a missing, repeated, unexpected or misshapen tensor, or a head that is not the
 *   embedding although tied; the message names it
 */
export function checkTensors<Tensor extends TensorInfo & { readonly sha256?: string }>(
  config: LlamaConfig,
  offered: readonly Tensor[],
): CheckedTensors<Tensor> {
  const byName = new Map<string, Tensor>();
  for (const tensor of offered) {
    if (byName.has(tensor.name)) throw corrupt(`tensor ${tensor.name} is there twice`, [tensor.name]);
    byName.set(tensor.name, tensor);
  }
  const specs = tensorSpecs(config);
  const missing = specs.filter(({ name }) => !byName.has(name)).map(({ name }) => name);
  if (missing.length > 0) throw corrupt(`tensors are missing: ${listed(missing)}`, missing);
  const tensors = specs.map(({ name, shape }) => {
    const tensor = byName.get(name)!;
    checkShape(tensor, shape);
    byName.delete(name);
    return tensor;
  });
  if (config.tieWordEmbeddings) checkTiedHead(config, tensors, byName.get(headName));
  const extra = [...byName.keys()];
  const tied = config.tieWordEmbeddings;
  const unexpected = extra.filter((name) => !isRotaryBuffer(name) && !(tied && name === headName));
  if (unexpected.length > 0) throw corrupt(`tensors no Llama of this config has: ${listed(unexpected)}`, unexpected);
  return { tensors, ignored: extra };
}

function checkTiedHead(
  config: LlamaConfig,
  tensors: readonly (TensorInfo & { readonly sha256?: string })[],
  head: (TensorInfo & { readonly sha256?: string }) | undefined,
): void {
  if (head === undefined) return;
  checkShape(head, [config.vocabSize, config.hiddenSize]);
  const embedding = tensors.find(({ name }) => name === embeddingName);
  const comparable = embedding?.sha256 !== undefined && head.sha256 !== undefined && embedding.dtype === head.dtype;
  if (comparable && embedding.sha256 !== head.sha256) {
    throw corrupt(`${headName} differs from ${embeddingName} although tie_word_embeddings is true`, [headName]);
  }
}

function checkShape(tensor: TensorInfo, wanted: readonly number[]): void {
  const same = tensor.shape.length === wanted.length && tensor.shape.every((extent, i) => extent === wanted[i]);
  if (same) return;
  const got = `tensor ${tensor.name} has shape [${tensor.shape.join(", ")}]`;
  throw corrupt(`${got}; the config wants [${wanted.join(", ")}]`, [tensor.name]);
}

function corrupt(message: string, names: readonly string[]): CodedError {
  return new CodedError("checkpoint_corrupt", message, { details: { tensors: names.slice(0, maxNamed) } });
}

function listed(names: readonly string[]): string {
  const more = names.length - maxNamed;
  return names.slice(0, maxNamed).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
