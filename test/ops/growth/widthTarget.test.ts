import assert from "node:assert/strict";
import { test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import { planGrowth } from "../../../src/ops/growth/index.ts";
import { makeToy } from "../helpers/models.ts";

const refusals: [
  title: string,
  request: { params?: JsonObject; factor?: number; operator?: string },
  code: string,
  pointer: string,
][] = [
  ["neither factor nor target", {}, "invalid_request", "/factor"],
  ["both factor and target", { factor: 2, params: { target: { hidden_size: 64 } } }, "invalid_request", "/factor"],
  ["a factor beyond every limit", { factor: 1_000_000 }, "unprocessable", "/factor"],
  ["a smaller hidden size", { params: { target: { hidden_size: 16 } } }, "unprocessable", "/params/target/hidden_size"],
  [
    "hidden that heads do not divide",
    { params: { target: { hidden_size: 33 } } },
    "unprocessable",
    "/params/target/hidden_size",
  ],
  [
    "a hidden size of text",
    { params: { target: { hidden_size: "64" } } },
    "invalid_request",
    "/params/target/hidden_size",
  ],
  [
    "an enormous MLP",
    { params: { target: { intermediate_size: 2 ** 30 } } },
    "unprocessable",
    "/params/target/intermediate_size",
  ],
  [
    "kv heads that do not divide",
    { params: { target: { num_key_value_heads: 3 } } },
    "unprocessable",
    "/params/target/num_key_value_heads",
  ],
  [
    "a head_dim that is no multiple",
    { params: { target: { head_dim: 12 } } },
    "unprocessable",
    "/params/target/head_dim",
  ],
  ["an unknown size", { params: { target: { vocab_size: 99 } } }, "invalid_request", "/params/target/vocab_size"],
  ["a target that is no object", { params: { target: 64 } }, "invalid_request", "/params/target"],
  ["an unknown split", { factor: 2, params: { split: "odd" } }, "invalid_request", "/params/split"],
  ["tile on no multiple", { params: { target: { hidden_size: 40 }, split: "tile" } }, "unprocessable", "/params/split"],
  [
    "lemon in the paper's fidelity",
    { factor: 2, params: { split: "lemon", fidelity: "paper" } },
    "unprocessable",
    "/params/fidelity",
  ],
  ["noise above 1", { factor: 2, params: { noise: 1.5 } }, "invalid_request", "/params/noise"],
  [
    "zero growth that shrinks groups",
    { operator: "zero", params: { target: { num_key_value_heads: 4 } } },
    "unprocessable",
    "/params/target/num_key_value_heads",
  ],
  ["an unknown rule", { operator: "zero", factor: 2, params: { rule: "eq15" } }, "invalid_request", "/params/rule"],
];
for (const [title, { operator = "direct", ...request }, code, pointer] of refusals) {
  test(`refused: ${title}, at ${pointer}`, () => {
    assert.throws(
      () => planGrowth(makeToy().source, { operator, axis: "width", ...request }),
      (error) => {
        assert.ok(error instanceof CodedError, String(error));
        assert.deepEqual([error.code, error.fields[0]?.pointer], [code, pointer]);
        return true;
      },
    );
  });
}
