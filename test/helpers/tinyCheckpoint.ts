/**
 * A small Llama with random weights, written to a folder of its own, for tests that need a model and no shared
 * data: bytes for tokens, two layers, grouped-query attention, a tied head.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LlamaConfig } from "../../src/ops/architectures/llamaConfig.ts";
import type { ResolvedCheckpoint } from "../../src/ops/manifest.ts";
import { seededStream } from "../../src/ops/rng.ts";
import type { TensorRef } from "../../src/ops/tensor.ts";

export const tinyConfig: LlamaConfig = {
  vocabSize: 260,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  numKeyValueHeads: 1,
  headDim: 8,
  maxPositionEmbeddings: 64,
  rmsNormEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: false,
  mlpBias: false,
  initializerRange: 0.02,
  bosTokenId: 256,
  eosTokenIds: [257],
};

function shapesOf(config: LlamaConfig): [name: string, shape: number[]][] {
  const { hiddenSize: d, intermediateSize: f, headDim: h } = config;
  const q = config.numAttentionHeads * h;
  const kv = config.numKeyValueHeads * h;
  const shapes: [string, number[]][] = [
    ["model.embed_tokens.weight", [config.vocabSize, d]],
    ["model.norm.weight", [d]],
  ];
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const named: [string, number[]][] = [
      ["input_layernorm", [d]],
      ["post_attention_layernorm", [d]],
      ["self_attn.q_proj", [q, d]],
      ["self_attn.k_proj", [kv, d]],
      ["self_attn.v_proj", [kv, d]],
      ["self_attn.o_proj", [d, q]],
      ["mlp.gate_proj", [f, d]],
      ["mlp.up_proj", [f, d]],
      ["mlp.down_proj", [d, f]],
    ];
    shapes.push(...named.map(([name, shape]): [string, number[]] => [`model.layers.${layer}.${name}.weight`, shape]));
  }
  return shapes;
}

/** @returns the checkpoint and a function that removes its folder; `bytes` false leaves it without a tokenizer */
export function tinyCheckpoint(
  options: { id?: string; seed?: number; bytes?: boolean; config?: Partial<LlamaConfig>; dtype?: "F32" | "BF16" } = {},
): { checkpoint: ResolvedCheckpoint; remove(): void } {
  const { id = "ckpt_tiny", seed = 1, bytes = true, dtype = "F32" } = options;
  const config = { ...tinyConfig, ...options.config };
  const folder = mkdtempSync(join(tmpdir(), "cambium-tiny-"));
  const path = join(folder, "weights");
  const tensors: TensorRef[] = [];
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const [name, shape] of shapesOf(config)) {
    const count = shape.reduce((product, extent) => product * extent, 1);
    const values = seededStream(seed, name).fillNormal(new Float32Array(count), 0.4);
    if (shape.length === 1) values.fill(1);
    const stored = dtype === "F32" ? values : Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
    parts.push(new Uint8Array(stored.buffer));
    tensors.push({ name, dtype, shape, blob: "weights", offset, sizeBytes: stored.byteLength, sha256: "" });
    offset += stored.byteLength;
  }
  writeFileSync(path, Buffer.concat(parts));
  const tokenizer = bytes ? { tokenizer: "bytes" as const } : {};
  const manifest = {
    architecture: "llama" as const,
    config,
    configJson: {},
    tensors,
    files: [],
    original: null,
    optimizer: null,
    ...tokenizer,
  };
  const blobs = { weights: { path, sizeBytes: offset, mtimeMs: null } };
  return { checkpoint: { id, manifest, blobs }, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
