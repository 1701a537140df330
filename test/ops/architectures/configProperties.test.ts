import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatLlamaConfig, parseLlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";

const seed = 20_240_525;
const valid: JsonObject = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 64,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 4,
  max_position_embeddings: 32,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: { rope_type: "linear", factor: 2 },
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "float32",
};
const odd = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  fc.constantFrom(0, -1, 0.5, 2 ** 31, 2 ** 53, 1e308, Number.NaN, Infinity, "", "16", true, [], {}),
);
const names = [...Object.keys(valid), "rope_parameters", "dtype", "sliding_window", "quantization_config", "__proto__"];

test("a config with any fields replaced by anything is refused by name, or reads, and then writes back as itself", () => {
  let read = 0;
  const changes = fc.dictionary(fc.constantFrom(...names), odd, { minKeys: 1, maxKeys: 2 });
  const property = fc.property(changes, (change) => {
    const json = { ...valid, ...change } as JsonObject;
    let config;
    try {
      config = parseLlamaConfig(json);
    } catch (error) {
      assert.ok(error instanceof CodedError, String(error));
      assert.ok(error.code === "checkpoint_corrupt" || error.code === "checkpoint_unsupported");
      assert.ok(error.message.length < 400);
      return;
    }
    read += 1;
    assert.deepEqual(formatLlamaConfig(config, json), json);
    assert.deepEqual(parseLlamaConfig(formatLlamaConfig({ ...config, numHiddenLayers: 7 }, json)), {
      ...config,
      numHiddenLayers: 7,
    });
    assert.deepEqual(parseLlamaConfig(formatLlamaConfig(config, {})), config);
  });
  fc.assert(property, { seed, numRuns: 5000 });
  assert.ok(read > 100, `only ${read} configs were read`);
});
