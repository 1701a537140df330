import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatLlamaConfig, parseLlamaConfig, type LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { CodedError, type ErrorCode } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const hf4: JsonObject = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 257,
  hidden_size: 64,
  intermediate_size: 176,
  num_hidden_layers: 2,
  num_attention_heads: 8,
  num_key_value_heads: 2,
  head_dim: 12,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  rope_scaling: null,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: [2, 7],
  torch_dtype: "bfloat16",
  my_own_field: { kept: [1, 2] },
};

function refuses(change: JsonObject, code: ErrorCode, field: string): void {
  assert.throws(
    () => parseLlamaConfig({ ...hf4, ...change }),
    (error) => {
      assert.ok(error instanceof CodedError, String(error));
      assert.equal(error.code, code, error.message);
      assert.ok(error.message.includes(field), `${error.message} does not name ${field}`);
      return true;
    },
    JSON.stringify(change),
  );
}

test("the spelling of transformers 4 is read", () => {
  const config = parseLlamaConfig(hf4);
  assert.equal(config.headDim, 12);
  assert.equal(config.ropeTheta, 500000);
  assert.equal(config.ropeScaling, null);
  assert.deepEqual(config.eosTokenIds, [2, 7]);
  assert.equal(config.bosTokenId, 1);
});

test("the spelling of transformers 5 reads as the same config", () => {
  const { rope_theta: _theta, rope_scaling: _scaling, torch_dtype: _dtype, ...rest } = hf4;
  const hf5 = { ...rest, dtype: "bfloat16", rope_parameters: { rope_theta: 500000, rope_type: "default" } };
  assert.deepEqual(parseLlamaConfig(hf5), parseLlamaConfig(hf4));
});

test("llama3 and linear scaling are read in both spellings, `type` as an old name of `rope_type`", () => {
  const llama3 = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64,
  };
  const wanted = { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 64 };
  assert.deepEqual(parseLlamaConfig({ ...hf4, rope_scaling: llama3 }).ropeScaling, wanted);
  const { rope_theta: _theta, rope_scaling: _scaling, ...rest } = hf4;
  const five = parseLlamaConfig({ ...rest, rope_parameters: { ...llama3, rope_theta: 500000 } });
  assert.deepEqual([five.ropeScaling, five.ropeTheta], [wanted, 500000]);
  const linear = parseLlamaConfig({ ...hf4, rope_scaling: { type: "linear", factor: 2 } }).ropeScaling;
  assert.deepEqual(linear, { type: "linear", factor: 2 });
});

test("what is left out takes the library's default, sizes excepted", () => {
  const small = { model_type: "llama", vocab_size: 9, hidden_size: 8, intermediate_size: 4 };
  const config = parseLlamaConfig({ ...small, num_hidden_layers: 1, num_attention_heads: 2 });
  assert.deepEqual(config, {
    vocabSize: 9,
    hiddenSize: 8,
    intermediateSize: 4,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    numKeyValueHeads: 2,
    headDim: 4,
    maxPositionEmbeddings: 2048,
    rmsNormEps: 1e-6,
    ropeTheta: 10000,
    ropeScaling: null,
    tieWordEmbeddings: false,
    attentionBias: false,
    mlpBias: false,
    initializerRange: 0.02,
    bosTokenId: null,
    eosTokenIds: [],
  } satisfies LlamaConfig);
  const sizes = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
  for (const name of sizes) refuses({ [name]: null }, "checkpoint_corrupt", name);
});

const lies: [title: string, change: JsonObject, code: ErrorCode, field: string][] = [
  ["no object at all", { rope_scaling: "x" }, "checkpoint_corrupt", "rope_scaling"],
  ["another model type", { model_type: "gpt2" }, "checkpoint_unsupported", "model_type"],
  ["another class", { architectures: ["MistralForCausalLM"] }, "checkpoint_unsupported", "architectures"],
  ["no sign of being a Llama", { model_type: null, architectures: null }, "checkpoint_unsupported", "model_type"],
  ["another activation", { hidden_act: "gelu" }, "checkpoint_unsupported", "hidden_act"],
  ["quantized weights", { quantization_config: { bits: 4 } }, "checkpoint_unsupported", "quantization_config"],
  ["a sliding window", { sliding_window: 128 }, "checkpoint_unsupported", "sliding_window"],
  ["partial rotary", { partial_rotary_factor: 0.5 }, "checkpoint_unsupported", "partial_rotary_factor"],
  ["dynamic rope", { rope_scaling: { rope_type: "dynamic", factor: 2 } }, "checkpoint_unsupported", "rope_type"],
  ["unknown rope", { rope_scaling: { rope_type: "magic", factor: 2 } }, "checkpoint_unsupported", "rope_type"],
  ["a rope factor without type", { rope_scaling: { factor: 2 } }, "checkpoint_corrupt", "rope_type"],
  ["a rope factor of text", { rope_scaling: { rope_type: "linear", factor: "2" } }, "checkpoint_corrupt", "factor"],
  [
    "two rope thetas",
    { rope_parameters: { rope_theta: 1e4, rope_type: "default" } },
    "checkpoint_corrupt",
    "rope_theta",
  ],
  ["heads that do not divide hidden", { num_attention_heads: 3 }, "checkpoint_corrupt", "num_attention_heads"],
  ["kv heads that do not divide heads", { num_key_value_heads: 3 }, "checkpoint_corrupt", "num_key_value_heads"],
  ["more kv heads than heads", { num_key_value_heads: 16 }, "checkpoint_corrupt", "num_key_value_heads"],
  ["no kv heads", { num_key_value_heads: 0 }, "checkpoint_corrupt", "num_key_value_heads"],
  ["an odd head_dim", { head_dim: 13 }, "checkpoint_corrupt", "head_dim"],
  ["half a hidden size", { hidden_size: 8.5 }, "checkpoint_corrupt", "hidden_size"],
  ["a hidden size of text", { hidden_size: "64" }, "checkpoint_corrupt", "hidden_size"],
  ["no layers", { num_hidden_layers: 0 }, "checkpoint_corrupt", "num_hidden_layers"],
  ["-1 layers", { num_hidden_layers: -1 }, "checkpoint_corrupt", "num_hidden_layers"],
  ["a million layers", { num_hidden_layers: 1e6 }, "checkpoint_corrupt", "num_hidden_layers"],
  ["a vocabulary of 2^40", { vocab_size: 2 ** 40 }, "checkpoint_corrupt", "vocab_size"],
  ["no positions", { max_position_embeddings: 0 }, "checkpoint_corrupt", "max_position_embeddings"],
  ["a negative eps", { rms_norm_eps: -1e-5 }, "checkpoint_corrupt", "rms_norm_eps"],
  ["a theta of 0", { rope_theta: 0 }, "checkpoint_corrupt", "rope_theta"],
  ["an eos outside the vocabulary", { eos_token_id: 257 }, "checkpoint_corrupt", "eos_token_id"],
  ["a bos of -1", { bos_token_id: -1 }, "checkpoint_corrupt", "bos_token_id"],
  ["too many eos ids", { eos_token_id: new Array<number>(65).fill(2) }, "checkpoint_corrupt", "eos_token_id"],
  ["tying that is not a boolean", { tie_word_embeddings: "yes" }, "checkpoint_corrupt", "tie_word_embeddings"],
];
for (const [title, change, code, field] of lies) {
  test(`config lie: ${title} is refused as ${code}, naming ${field}`, () => refuses(change, code, field));
}

test("a config that is no object, or is a list, is refused", () => {
  for (const json of [null, 3, "x", [], undefined]) {
    assert.throws(
      () => parseLlamaConfig(json),
      (error) => error instanceof CodedError && error.code === "checkpoint_corrupt",
    );
  }
});

test("keys such as __proto__ and inherited fields give a config nothing", () => {
  const hostile: unknown = JSON.parse(`{"__proto__": ${JSON.stringify(hf4)}}`);
  assert.throws(() => parseLlamaConfig(hostile), CodedError);
  assert.throws(() => parseLlamaConfig(Object.create(hf4)), CodedError);
});

test("an unused sliding window and pretraining_tp above 1 are accepted: neither changes the function", () => {
  assert.equal(parseLlamaConfig({ ...hf4, sliding_window: 4, use_sliding_window: false }).hiddenSize, 64);
  assert.equal(parseLlamaConfig({ ...hf4, pretraining_tp: 4 }).hiddenSize, 64);
});

test("writing an unchanged config back changes no byte of the JSON", () => {
  assert.equal(JSON.stringify(formatLlamaConfig(parseLlamaConfig(hf4), hf4)), JSON.stringify(hf4));
});

test("a grown config keeps the file's spelling, its unknown fields, and reads back as itself", () => {
  const grown = { ...parseLlamaConfig(hf4), numHiddenLayers: 4, hiddenSize: 128, rmsNormEps: 2e-5, ropeTheta: 1e6 };
  const json = formatLlamaConfig(grown, hf4);
  assert.deepEqual(json, { ...hf4, num_hidden_layers: 4, hidden_size: 128, rms_norm_eps: 2e-5, rope_theta: 1e6 });
  assert.deepEqual(parseLlamaConfig(json), grown);
  const { rope_theta: _theta, rope_scaling: _scaling, torch_dtype: _dtype, ...rest } = hf4;
  const hf5: JsonObject = { ...rest, dtype: "bfloat16", rope_parameters: { rope_theta: 500000, rope_type: "default" } };
  const five = formatLlamaConfig(grown, hf5);
  assert.deepEqual(five["rope_parameters"], { rope_type: "default", rope_theta: 1e6 });
  assert.ok(!("rope_theta" in five));
  assert.deepEqual(parseLlamaConfig(five), grown);
});

test("a head_dim that used to follow from the sizes is written once it no longer does", () => {
  const { head_dim: _headDim, ...raw } = hf4;
  const config = parseLlamaConfig(raw);
  assert.equal(config.headDim, 8);
  assert.ok(!("head_dim" in formatLlamaConfig({ ...config, numHiddenLayers: 3 }, raw)));
  assert.equal(formatLlamaConfig({ ...config, hiddenSize: 128 }, raw)["head_dim"], 8);
});

test("a config written from nothing is complete and reads back as itself", () => {
  for (const change of [{}, { ropeScaling: { type: "linear", factor: 2 } as const, eosTokenIds: [2] }]) {
    const config = { ...parseLlamaConfig(hf4), ...change };
    const json = formatLlamaConfig(config, {});
    assert.equal(json["hidden_act"], "silu");
    assert.equal(json["model_type"], "llama");
    assert.deepEqual(parseLlamaConfig(json), config);
  }
});

const tiny = sharedData("golden", "hf", "tiny_models");
test("every config of the golden tiny models reads, and writes back unchanged", needsShared(tiny), () => {
  const folders = readdirSync(tiny!, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  assert.equal(folders.length, 21);
  for (const { name } of folders) {
    const json = JSON.parse(readFileSync(join(tiny!, name, "config.json"), "utf8")) as JsonObject;
    assert.equal(JSON.stringify(formatLlamaConfig(parseLlamaConfig(json), json)), JSON.stringify(json), name);
  }
});

const dirs = sharedData("golden", "hf", "model_dirs");
test("config lies of the golden folders: what their makers judge `refuse` is refused", needsShared(dirs), () => {
  const cases = JSON.parse(readFileSync(join(dirs!, "manifest.json"), "utf8")) as { dir: string; judge: string }[];
  const verdicts = cases.flatMap(({ dir, judge }) => {
    if (!dir.includes("/cfg_")) return [];
    const json: unknown = JSON.parse(readFileSync(join(dirs!, dir, "config.json"), "utf8"));
    try {
      parseLlamaConfig(json);
      return [{ dir, judge, refused: false }];
    } catch (error) {
      assert.ok(error instanceof CodedError, `${dir}: ${String(error)}`);
      return [{ dir, judge, refused: true }];
    }
  });
  assert.equal(verdicts.length, 14);
  // A vocabulary bigger than the tables is a lie only beside the tensors; see checkTensors.
  const accepted = verdicts.filter(({ refused }) => !refused).map(({ dir }) => dir.replace("dirs/", ""));
  assert.deepEqual(accepted.sort(), ["cfg_rope_linear", "cfg_vocab_bigger"]);
});
