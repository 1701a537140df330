/** Growth over HTTP: operators, plans against the paper's numbers, and a growth with its receipt. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { assertProblem, startHarness, tinyConfig, tinySource, type Harness } from "../helpers/harness.ts";

describe("growth", () => {
  let api: Harness;
  before(async () => {
    api = await startHarness();
    await api.work("/v1/checkpoints", { name: "base", source: tinySource });
  });
  after(() => api.close());

  const plan = (body: object) => api.call("POST", "/v1/growth-plans", { body });

  test("operators come with a JSON Schema of their parameters for each axis", async () => {
    const { body } = await api.call("GET", "/v1/operators");
    const direct = body.data.find((operator: { name: string }) => operator.name === "direct");
    for (const axis of direct.axes) {
      assert.equal(direct.params[axis].type, "object");
      assert.ok(["always", "never", "depends"].includes(direct.preserves_function[axis]));
    }
    assert.match(direct.reference.url, /^https:/);
  });

  test("a plan from a preset: G_stack with g = 4 makes the paper's 410M out of its base", async () => {
    const { status, body } = await plan({ preset: "410m-base", operator: "direct", axis: "depth", factor: 4 });
    assert.equal(status, 200);
    assert.equal(body.target_config.num_hidden_layers, 24);
    assert.deepEqual(
      body.layer_map,
      Array.from({ length: 24 }, (_, layer) => layer % 6),
    );
    assert.equal(body.new_bytes, 0);
    assert.equal(body.shared_bytes, 4 * body.num_parameters);
    assert.ok(Math.abs(body.growth_factor - 4) < 0.01);
    // 20 of the 23 neighbours were neighbours in the base
    assert.equal(body.connection_rate, 20 / 23);
    assert.equal(body.flops_per_token, 6 * body.num_parameters);
  });

  test("plans from a configuration, a checkpoint and its name agree", async () => {
    const request = { operator: "direct", axis: "depth", params: { layers: [0, 1, 1] } };
    const plans = [await plan({ ...request, checkpoint: "base" }), await plan({ ...request, config: tinyConfig })];
    for (const { status, body } of plans) {
      assert.equal(status, 200, JSON.stringify(body));
      assert.deepEqual(body.layer_map, [0, 1, 1]);
    }
    assert.equal(plans[0]!.body.num_parameters, plans[1]!.body.num_parameters);
  });

  test("400, 404 and 422 of a plan name the field", async () => {
    const wrong = await plan({ checkpoint: "base", operator: "magic", axis: "depth", factor: 2 });
    assertProblem(wrong, 400, "invalid_request");
    assert.equal(wrong.body.errors[0].pointer, "/operator");
    assertProblem(await plan({ checkpoint: "nobody", operator: "direct", axis: "depth", factor: 2 }), 404, "not_found");
    assertProblem(
      await plan({ preset: "9000b", operator: "direct", axis: "depth", factor: 2 }),
      400,
      "invalid_request",
    );
    assertProblem(await plan({ operator: "direct", axis: "depth", factor: 2 }), 400, "invalid_request");
    const layers = await plan({ checkpoint: "base", operator: "direct", axis: "depth", params: { layers: [0, 7] } });
    assert.ok([400, 422].includes(layers.status), JSON.stringify(layers.body));
    assert.match(layers.body.errors[0].pointer, /^\/params\/layers/);
    const unknown = await plan({
      checkpoint: "base",
      operator: "direct",
      axis: "depth",
      factor: 2,
      params: { foo: 1 },
    });
    assertProblem(unknown, 400, "invalid_request");
  });

  test("a growth is a checkpoint with a receipt, and writes no tensor byte", async () => {
    const job = await api.work("/v1/growths", {
      checkpoint: "base",
      operator: "direct",
      axis: "depth",
      factor: 2,
      name: "base-x2",
    });
    const { checkpoint, receipt } = job.result;
    const { body } = await api.call("GET", `/v1/checkpoints/${checkpoint}`);
    assert.equal(body.config.num_hidden_layers, 4);
    assert.equal(body.stored_bytes, 0);
    assert.deepEqual(body.receipt, receipt);
    assert.deepEqual(receipt.layer_map, [0, 1, 0, 1]);
    assert.equal(receipt.digest, body.digest);
    assert.equal(receipt.preserves_function, false);
    assert.ok(receipt.max_abs_logit_change > 0 && receipt.rms_logit_change <= receipt.max_abs_logit_change);
    assert.equal(body.parents[0].relation, "grown");
  });

  test("404 and 422 before a growth is queued", async () => {
    const post = (body: object) => api.call("POST", "/v1/growths", { body });
    assertProblem(await post({ checkpoint: "nobody", operator: "direct", axis: "depth", factor: 2 }), 404, "not_found");
    const grow = { checkpoint: "base", operator: "direct", axis: "depth", factor: 2, optimizer_state: "grow" };
    assertProblem(await post(grow), 422, "unprocessable");
  });
});
