import assert from "node:assert/strict";
import { test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import { getOperator, listOperators, planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { makeToy } from "../helpers/models.ts";
import { operatorContract, type Sample } from "./operatorContract.ts";

/** Requests that every operator of that name is tried with; an operator without samples fails. */
const samples: Readonly<Record<string, readonly Sample[]>> = {
  direct: [
    { axis: "depth", factor: 2 },
    { axis: "depth", factor: 3, params: { pattern: "interpolate" } },
    { axis: "width", factor: 2 },
    { axis: "width", factor: 2, params: { split: "scalar" } },
    { axis: "width", factor: 3, params: { split: "tile" } },
    { axis: "width", params: { target: { hidden_size: 44, intermediate_size: 61 } }, seed: 9 },
    { axis: "width", params: { target: { hidden_size: 80 }, split: "lemon" } },
    { axis: "width", params: { target: { hidden_size: 40 }, split: "even", fidelity: "paper" } },
    { axis: "width", factor: 2, params: { noise: 0.2 } },
  ],
  zero: [
    { axis: "depth", factor: 2 },
    { axis: "depth", factor: 2, params: { pattern: "stack" } },
    { axis: "depth", params: { positions: [0, 2, 3] } },
    { axis: "depth", params: { pattern: { name: "llama_pro", every: 1 } } },
    { axis: "depth", factor: 2, params: { noise: 0.2 } },
    { axis: "width", factor: 2 },
    { axis: "width", params: { target: { hidden_size: 40, intermediate_size: 50 }, rule: "eq14" }, seed: 5 },
    { axis: "width", factor: 2, params: { epsilon: "weights" } },
    { axis: "width", params: { target: { hidden_size: 44 }, rule: "eq14", epsilon: "weights" } },
  ],
  random: [
    { axis: "depth", factor: 2 },
    { axis: "depth", params: { positions: [0, 2], ramp_steps: 10 } },
    { axis: "width", factor: 2 },
    { axis: "width", params: { target: { hidden_size: 44, intermediate_size: 61 }, stages: 3 }, seed: 9 },
    { axis: "width", params: { target: { intermediate_size: 60 } } },
  ],
  learn: [
    { axis: "depth", factor: 2 },
    { axis: "depth", factor: 2, params: { fit_steps: 0 } },
    { axis: "depth", params: { num_hidden_layers: 7, sequence_length: 64, clip: null } },
    { axis: "width", factor: 2 },
    { axis: "width", params: { target: { hidden_size: 44 }, num_hidden_layers: 5, fit_steps: 0 }, seed: 3 },
  ],
};

for (const operator of listOperators()) operatorContract(operator, samples[operator.name] ?? []);

test("operators are found by name; an unknown name is refused with the known ones", () => {
  for (const operator of listOperators()) assert.equal(getOperator(operator.name), operator);
  for (const name of ["grow", "", "__proto__", "constructor"]) {
    assert.throws(
      () => getOperator(name),
      (error) => {
        assert.ok(error instanceof CodedError && error.code === "invalid_request");
        return error.fields[0]?.pointer === "/operator" && error.message.includes("direct");
      },
    );
  }
});

test("an axis that is none, and a seed that is none, are refused by pointer", () => {
  const { source } = makeToy();
  const refused = (request: object, pointer: string): void => {
    assert.throws(
      () => planGrowth(source, { operator: "direct", axis: "depth", factor: 2, ...request } as GrowthPlanRequest),
      (error) => error instanceof CodedError && error.fields[0]?.pointer === pointer,
    );
  };
  refused({ axis: "height" }, "/axis");
  refused({ seed: -1 }, "/seed");
  refused({ seed: 0.5 }, "/seed");
});
