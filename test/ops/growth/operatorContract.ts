/**
 * What holds for every growth operator, whatever it does: run over the whole registry by operators.test.ts, so a new
 * operator is tested before anyone writes a test for it. Sample requests are supplied there, by name.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import { CodedError } from "../../../src/ops/errors.ts";
import { planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import type { GrowthOperator } from "../../../src/ops/growth/operator.ts";
import { checkPlanLaws, type GrowthAxis } from "../../../src/ops/growth/plan.ts";
import { computedWeights, execute, makeToy, toyIds, type Toy } from "../helpers/models.ts";
import { maxDifference, referenceForward } from "../helpers/referenceForward.ts";

export type Sample = Omit<GrowthPlanRequest, "operator" | "axis"> & { readonly axis: GrowthAxis };

/** A float32 recipe cannot do better than its own rounding; the toy's logits are of the size of 4. */
const float32Tolerance = 1e-4;

/** The models that every sample is tried on: the toy, tied, with biases, with one kv head, with one layer. */
export function sampleToys(): Map<string, Toy> {
  return new Map([
    ["untied", makeToy()],
    ["tied", makeToy({ tieWordEmbeddings: true })],
    ["biased", makeToy({ attentionBias: true, mlpBias: true })],
    ["one kv head", makeToy({ numKeyValueHeads: 1, headDim: 6 })],
    ["one layer", makeToy({ numHiddenLayers: 1 })],
  ]);
}

/** Registers the contract's tests for one operator. */
export function operatorContract(operator: GrowthOperator, samples: readonly Sample[]): void {
  const title = (text: string): string => `${operator.name}: ${text}`;
  const request = (sample: Sample): GrowthPlanRequest => ({ operator: operator.name, ...sample });

  test(title("describes itself: summary, axes, a schema and a statement on preservation for each axis"), () => {
    assert.ok(operator.summary.length > 10 && operator.axes.length > 0);
    for (const axis of operator.axes) {
      assert.equal(operator.paramsSchema[axis]?.["type"], "object");
      assert.equal(operator.paramsSchema[axis]?.["additionalProperties"], false);
      assert.ok(["always", "never", "depends"].includes(operator.preservesFunction[axis]!));
      assert.ok(
        samples.some((sample) => sample.axis === axis),
        `no sample grows ${axis}`,
      );
    }
    assert.ok(operator.reference.url.startsWith("https://"));
  });

  for (const sample of samples) {
    for (const [kind, toy] of sampleToys()) {
      test(title(`${JSON.stringify(sample)} on ${kind} keeps the laws and says truly what it preserves`), () => {
        const plan = planGrowth(toy.source, request(sample));
        checkPlanLaws(toy.source, plan);
        const before = structuredClone(toy.weights);
        const target = execute(plan, toy.weights);
        assert.deepEqual(toy.weights, before, "a recipe changed its inputs");
        assert.deepEqual(execute(plan, toy.weights), target, "a recipe is not a pure function");
        checkTwins(plan, target);
        for (const values of target.values()) assert.ok(values.every(Number.isFinite));
        const change = maxDifference(
          referenceForward(plan.targetConfig, computedWeights(plan, target), toyIds),
          referenceForward(toy.source.config, toy.weights, toyIds),
        );
        if (plan.preservesFunction.value) {
          assert.ok(
            change <= Math.min(float32Tolerance, plan.preservesFunction.tolerance!),
            `logits change by ${change}`,
          );
        } else {
          assert.ok(change > 1e-3, `said not to preserve, but logits change by ${change} only`);
        }
        if (operator.preservesFunction[sample.axis] === "always") assert.ok(plan.preservesFunction.value);
        if (operator.preservesFunction[sample.axis] === "never") {
          assert.ok(!plan.preservesFunction.value || plan.numNewParameters === 0);
        }
      });
    }
  }

  test(title("its schemas are valid JSON Schema 2020-12, and every sample fits them"), () => {
    const ajv = new Ajv2020({ strict: true, strictRequired: false });
    for (const { axis, params } of samples) {
      const validate = ajv.compile(operator.paramsSchema[axis]!);
      assert.ok(validate(params ?? {}), JSON.stringify(validate.errors));
      assert.ok(!validate({ no_such_parameter: 1 }));
    }
  });

  for (const axis of operator.axes) {
    test(title(`${axis}: an unknown parameter is refused by name, a body of another type too`), () => {
      const { source } = makeToy();
      const refused = (params: unknown, pointer: string): void => {
        assert.throws(
          () => planGrowth(source, { operator: operator.name, axis, factor: 2, params } as GrowthPlanRequest),
          (error) =>
            error instanceof CodedError && error.code === "invalid_request" && error.fields[0]?.pointer === pointer,
          pointer,
        );
      };
      refused({ no_such_parameter: 1 }, "/params/no_such_parameter");
      refused(JSON.parse('{"__proto__": 1}'), "/params/__proto__");
      refused([], "/params");
    });
  }
}

function checkTwins(plan: ReturnType<typeof planGrowth>, target: ReadonlyMap<string, Float32Array>): void {
  for (const { info, recipe } of plan.tensors) {
    if (recipe.type !== "build" || recipe.sameAs === undefined) continue;
    assert.deepEqual(target.get(info.name), target.get(recipe.sameAs), `${info.name} is the same as ${recipe.sameAs}`);
  }
}
