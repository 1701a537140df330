/**
 * A Hugging Face folder as a resolved checkpoint, for tests of numerics: a small reader of its own, without
 * the checks that registering a checkpoint makes.
 */
import { readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { LlamaConfig, RopeScaling } from "../../src/ops/architectures/llamaConfig.ts";
import type { BlobLocation, JsonObject, ResolvedCheckpoint } from "../../src/ops/manifest.ts";
import type { Dtype, TensorRef } from "../../src/ops/tensor.ts";

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

function headerOf(bytes: Buffer): { entries: [string, HeaderEntry][]; start: number } {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, HeaderEntry>;
  return { entries: Object.entries(header).filter(([name]) => name !== "__metadata__"), start: 8 + length };
}

/** Tensors of a safetensors file of F32 or I32, as typed arrays. */
export function readGolden(path: string): Map<string, { shape: number[]; values: Float32Array | Int32Array }> {
  const bytes = readFileSync(path);
  const { entries, start } = headerOf(bytes);
  return new Map(
    entries.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => {
        const data = new Uint8Array(bytes.subarray(start + from, start + to)).buffer;
        return [name, { shape, values: dtype === "I32" ? new Int32Array(data) : new Float32Array(data) }];
      },
    ),
  );
}

/** @returns the folder as a checkpoint; its blobs are its files, under their own names. */
export function resolveFolder(folder: string): ResolvedCheckpoint {
  const configJson = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as JsonObject;
  const tensors: TensorRef[] = [];
  const blobs: Record<string, BlobLocation> = {};
  for (const file of readdirSync(folder)
    .filter((name) => name.endsWith(".safetensors"))
    .sort()) {
    if (file === "golden.logits.safetensors") continue;
    const path = join(folder, file);
    const { entries, start } = headerOf(readFileSync(path));
    blobs[file] = { path, sizeBytes: statSync(path).size, mtimeMs: null };
    for (const [
      name,
      {
        dtype,
        shape,
        data_offsets: [from, to],
      },
    ] of entries) {
      tensors.push({
        name,
        dtype: dtype as Dtype,
        shape,
        blob: file,
        offset: start + from,
        sizeBytes: to - from,
        sha256: "",
      });
    }
  }
  const files = readdirSync(folder)
    .filter((name) => /^(tokenizer|special_tokens).*\.json$/.test(name))
    .map((name) => {
      const path = join(folder, name);
      blobs[name] = { path, sizeBytes: statSync(path).size, mtimeMs: null };
      return { name, blob: name, sizeBytes: statSync(path).size };
    });
  const config = configOf(configJson);
  const kept = tensors.filter(({ name }) => !(config.tieWordEmbeddings && name === "lm_head.weight"));
  return {
    id: folder,
    manifest: { architecture: "llama", config, configJson, tensors: kept, files, original: null, optimizer: null },
    blobs,
  };
}

function configOf(json: JsonObject): LlamaConfig {
  const number = (key: string, fallback?: number): number => (json[key] ?? fallback) as number;
  const rope = ((json["rope_parameters"] ?? json["rope_scaling"]) as JsonObject | null) ?? {};
  const kind = rope["rope_type"] ?? rope["type"] ?? "default";
  let ropeScaling: RopeScaling | null = null;
  if (kind === "linear") ropeScaling = { type: "linear", factor: rope["factor"] as number };
  if (kind === "llama3") {
    ropeScaling = {
      type: "llama3",
      factor: rope["factor"] as number,
      lowFreqFactor: rope["low_freq_factor"] as number,
      highFreqFactor: rope["high_freq_factor"] as number,
      originalMaxPositionEmbeddings: rope["original_max_position_embeddings"] as number,
    };
  }
  const heads = number("num_attention_heads");
  return {
    vocabSize: number("vocab_size"),
    hiddenSize: number("hidden_size"),
    intermediateSize: number("intermediate_size"),
    numHiddenLayers: number("num_hidden_layers"),
    numAttentionHeads: heads,
    numKeyValueHeads: number("num_key_value_heads", heads),
    headDim: number("head_dim", number("hidden_size") / heads),
    maxPositionEmbeddings: number("max_position_embeddings"),
    rmsNormEps: number("rms_norm_eps"),
    ropeTheta: (rope["rope_theta"] ?? json["rope_theta"] ?? 10000) as number,
    ropeScaling,
    tieWordEmbeddings: (json["tie_word_embeddings"] ?? false) as boolean,
    attentionBias: (json["attention_bias"] ?? false) as boolean,
    mlpBias: (json["mlp_bias"] ?? false) as boolean,
    initializerRange: number("initializer_range", 0.02),
    bosTokenId: (json["bos_token_id"] ?? null) as number | null,
    eosTokenIds: [json["eos_token_id"] ?? []].flat() as number[],
  };
}

/** @returns the largest absolute difference; NaN when any is NaN. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} values, ${b.length} wanted`);
  let worst = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number));
    if (!(difference <= worst)) worst = difference;
    if (Number.isNaN(worst)) return worst;
  }
  return worst;
}
