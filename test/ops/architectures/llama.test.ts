import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  architectures,
  countParameters,
  expectedTensors,
  findSpec,
  llama,
  parseLlamaConfig,
  tensorSpecs,
} from "../../../src/ops/architectures/index.ts";
import { elementCount } from "../../../src/ops/dtype.ts";
import { presets } from "../../../src/ops/planner/presets.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { makeToy, toyConfig } from "../helpers/models.ts";
import { loadSafetensors } from "../helpers/safetensors.ts";

test("invariant 17: parameter counts of the paper's models, its bases, TinyLlama and the toy are exact", () => {
  const totals = Object.fromEntries(Object.entries(presets).map(([name, config]) => [name, countParameters(config)]));
  assert.deepEqual(totals, {
    "410m": { total: 373_867_520, nonEmbedding: 308_331_520 },
    "410m-base": { total: 142_619_648, nonEmbedding: 77_083_648 },
    "1.1b": { total: 1_364_297_728, nonEmbedding: 1_233_225_728 },
    "1.1b-base": { total: 439_379_968, nonEmbedding: 308_307_968 },
    "3b": { total: 2_397_473_280, nonEmbedding: 2_233_633_280 },
    "3b-base": { total: 722_250_240, nonEmbedding: 558_410_240 },
    "7b": { total: 5_933_109_248, nonEmbedding: 5_670_965_248 },
    "7b-base": { total: 1_679_888_384, nonEmbedding: 1_417_744_384 },
  });
  const tinyLlama = { ...presets["1.1b"]!, numHiddenLayers: 22, numKeyValueHeads: 4 };
  assert.equal(countParameters(tinyLlama).total, 1_100_048_384);
  assert.equal(countParameters(toyConfig).total, 26_656);
});

test("invariant 18: growth factors on non-embedding counts", () => {
  const factor = (name: string): string =>
    (countParameters(presets[name]!).nonEmbedding / countParameters(presets[`${name}-base`]!).nonEmbedding).toFixed(5);
  assert.deepEqual([factor("1.1b"), factor("410m"), factor("7b")], ["3.99998", "3.99996", "3.99999"]);
});

test("counts agree with the tensors of the table for every mixture of ties and biases", () => {
  for (let bits = 0; bits < 8; bits += 1) {
    const flags = { tieWordEmbeddings: (bits & 1) > 0, attentionBias: (bits & 2) > 0, mlpBias: (bits & 4) > 0 };
    const config = { ...toyConfig, ...flags };
    const elements = expectedTensors(config).reduce((total, { shape }) => total + elementCount(shape), 0);
    assert.equal(countParameters(config).total, elements);
    const perLayer = 9 + (flags.attentionBias ? 4 : 0) + (flags.mlpBias ? 3 : 0);
    assert.equal(tensorSpecs(config).length, 2 + (flags.tieWordEmbeddings ? 0 : 1) + 3 * perLayer);
  }
});

test("names are unique and ordered embedding, layers, norm, head; each finds its own spec again", () => {
  const { source } = makeToy({ attentionBias: true, mlpBias: true });
  const names = source.tensors.map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  assert.equal(names[0], "model.embed_tokens.weight");
  assert.deepEqual(names.slice(-2), ["model.norm.weight", "lm_head.weight"]);
  for (const { name, shape } of source.tensors) assert.deepEqual(findSpec(source.config, name)?.shape, shape);
});

test("a name that the model lacks has no spec", () => {
  const strangers = [
    "model.layers.3.input_layernorm.weight",
    "model.layers.01.input_layernorm.weight",
    "model.layers.-1.input_layernorm.weight",
    "model.layers.{layer}.input_layernorm.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.extra",
    "__proto__",
  ];
  for (const name of strangers) assert.equal(findSpec(toyConfig, name), null, name);
});

test("element type of expected tensors is what was asked for", () => {
  assert.ok(expectedTensors(toyConfig, "BF16").every(({ dtype }) => dtype === "BF16"));
  assert.equal(architectures.llama, llama);
});

const tiny = sharedData("golden", "hf", "tiny_models");
test("the table names exactly the tensors that transformers saved, in their shapes", needsShared(tiny), () => {
  let files = 0;
  for (const name of readdirSync(tiny!).filter((entry) => entry.endsWith(".f32"))) {
    const shards = readdirSync(join(tiny!, name)).filter((file) => /^model.*\.safetensors$/.test(file));
    const saved = shards.flatMap((file) => loadSafetensors(join(tiny!, name, file)).infos);
    const config = parseLlamaConfig(JSON.parse(readFileSync(join(tiny!, name, "config.json"), "utf8")));
    const order = (left: { name: string }, right: { name: string }): number => (left.name < right.name ? -1 : 1);
    assert.deepEqual([...saved].sort(order), [...expectedTensors(config)].sort(order), name);
    files += 1;
  }
  assert.equal(files, 7);
});
