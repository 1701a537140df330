import assert from "node:assert/strict";
import { test } from "node:test";
import { checkTensors } from "../../../src/ops/architectures/checkTensors.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import type { TensorInfo } from "../../../src/ops/tensor.ts";
import { toyConfig } from "../helpers/models.ts";

type Offered = TensorInfo & { sha256?: string };
const whole: readonly Offered[] = expectedTensors(toyConfig);
const tied = { ...toyConfig, tieWordEmbeddings: true };
const head: Offered = { name: "lm_head.weight", dtype: "F32", shape: [53, 32] };

function refuses(config: typeof toyConfig, tensors: readonly Offered[], pattern: RegExp): void {
  assert.throws(
    () => checkTensors(config, tensors),
    (error) => error instanceof CodedError && error.code === "checkpoint_corrupt" && pattern.test(error.message),
  );
}

test("a whole checkpoint passes, in any order, and comes back in the order of the table", () => {
  const { tensors, ignored } = checkTensors(toyConfig, [...whole].reverse());
  assert.deepEqual(tensors, whole);
  assert.deepEqual(ignored, []);
});

test("a missing tensor is named", () => {
  refuses(
    toyConfig,
    whole.filter(({ name }) => name !== "model.layers.1.mlp.up_proj.weight"),
    /layers\.1\.mlp\.up_proj/,
  );
});

test("an untied checkpoint without its head is refused", () => {
  refuses(toyConfig, whole.slice(0, -1), /lm_head\.weight/);
});

test("an unknown tensor is refused: growth would drop it in silence", () => {
  refuses(toyConfig, [...whole, { name: "model.extra", dtype: "F32", shape: [3] }], /model\.extra/);
  const beyond = { name: "model.layers.3.input_layernorm.weight", dtype: "F32", shape: [32] } as const;
  refuses(toyConfig, [...whole, beyond], /layers\.3/);
});

test("many unknown tensors make a short message", () => {
  const extra = Array.from({ length: 2000 }, (_, i) => ({ name: `x${i}`, dtype: "F32", shape: [1] }) as const);
  refuses(toyConfig, [...whole, ...extra], /^.{0,200} and 1995 more$/);
});

test("a wrong shape is refused with both shapes: a vocabulary bigger than the tables, a transposed matrix", () => {
  refuses({ ...toyConfig, vocabSize: 54 }, whole, /embed_tokens.*\[53, 32\].*\[54, 32\]/);
  const transposed = whole.map((tensor) =>
    tensor.name.endsWith("gate_proj.weight") ? { ...tensor, shape: [...tensor.shape].reverse() } : tensor,
  );
  refuses(toyConfig, transposed, /gate_proj.*\[32, 48\].*\[48, 32\]/);
  refuses(toyConfig, [{ ...whole[0]!, shape: [53 * 32] }, ...whole.slice(1)], /\[1696\]/);
});

test("a tensor that is there twice is refused", () => {
  refuses(toyConfig, [...whole, whole[4]!], /twice/);
});

test("rotary buffers of old files are left out, whatever their shape", () => {
  const buffers: Offered[] = [
    { name: "model.layers.0.self_attn.rotary_emb.inv_freq", dtype: "F32", shape: [4] },
    { name: "model.rotary_emb.inv_freq", dtype: "F32", shape: [9] },
  ];
  const { tensors, ignored } = checkTensors(toyConfig, [...whole, ...buffers]);
  assert.deepEqual(tensors, whole);
  assert.deepEqual(
    ignored,
    buffers.map(({ name }) => name),
  );
});

test("a tied head may be absent, or present and equal; present it is left out", () => {
  const body = whole.slice(0, -1);
  assert.deepEqual(checkTensors(tied, body).ignored, []);
  assert.deepEqual(checkTensors(tied, [...body, head]).ignored, ["lm_head.weight"]);
  const hashed = body.map((tensor) => ({ ...tensor, sha256: "aa" }));
  assert.deepEqual(checkTensors(tied, [...hashed, { ...head, sha256: "aa" }]).tensors, hashed);
});

test("a tied head with other values or another shape is refused", () => {
  const body = whole.slice(0, -1).map((tensor) => ({ ...tensor, sha256: "aa" }));
  refuses(tied, [...body, { ...head, sha256: "bb" }], /tie_word_embeddings/);
  refuses(tied, [...body, { ...head, shape: [52, 32] }], /\[52, 32\]/);
});
