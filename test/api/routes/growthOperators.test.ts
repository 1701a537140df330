/** Every operator and axis through the whole service: plan, growth, receipt, and the training that goes on from it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { writeViewFiles } from "../../../src/engine/checkpoint/view.ts";
import { assertProblem, startHarness, tinySource, type Harness } from "../helpers/harness.ts";

const text = "the quick brown fox jumps over the lazy dog and then the dog sleeps. ".repeat(60);
const training = { dataset: "text", batch_tokens: 64, sequence_length: 32, skip_tokens: 0, validation_tokens: 64 };

/** All operators that need no data, on both axes, and a composition; each reaches its target within the tiny model. */
const growths: Readonly<Record<string, object>> = {
  "direct depth": { operator: "direct", axis: "depth", factor: 2 },
  "direct width": { operator: "direct", axis: "width", params: { target: { hidden_size: 24, intermediate_size: 40 } } },
  "direct width, tile": { operator: "direct", axis: "width", factor: 2, params: { split: "tile" } },
  "zero depth": { operator: "zero", axis: "depth", factor: 2 },
  "zero width": { operator: "zero", axis: "width", params: { target: { hidden_size: 20, intermediate_size: 44 } } },
  "random depth": { operator: "random", axis: "depth", factor: 2, params: { ramp_steps: 8 } },
  "random width": { operator: "random", axis: "width", factor: 2, params: { ramp_steps: 8 } },
  "tile and zero": {
    params: {
      steps: [
        { operator: "direct", axis: "width", factor: 2, params: { split: "tile" } },
        { operator: "zero", axis: "depth", factor: 2 },
      ],
    },
  },
};

describe("growth operators", () => {
  let api: Harness;
  let baseLoss: number;
  before(async () => {
    api = await startHarness();
    await api.work("/v1/checkpoints", { name: "scratch", source: tinySource });
    await api.work("/v1/datasets", {
      name: "text",
      tokenizer: "bytes",
      source: { type: "text", text: [text, text] },
      validation_fraction: 0.5,
    });
    await api.work("/v1/trainings", {
      ...training,
      checkpoint: "scratch",
      tokens: 12 * 64,
      optimizer: { learning_rate: 0.01 },
      keep_optimizer_state: true,
      name: "base",
    });
    baseLoss = await firstLoss((await api.work("/v1/trainings", { ...training, checkpoint: "base", tokens: 64 })).id);
  });
  after(() => api.close());

  async function firstLoss(job: string): Promise<number> {
    const { body } = await api.call("GET", `/v1/jobs/${job}/metrics`);
    assert.equal(body.data[0].step, 1);
    return body.data[0].loss;
  }

  const tensorsOf = async (name: string) => (await api.services.store.checkpoints.get(name)).manifest;

  for (const [title, growth] of Object.entries(growths)) {
    test(`${title}: the plan is the receipt's, and training starts from the grown loss`, async () => {
      const name = title.replaceAll(/[^a-z]+/g, "-");
      const plan = await api.call("POST", "/v1/growth-plans", { body: { checkpoint: "base", ...growth } });
      assert.equal(plan.status, 200, JSON.stringify(plan.body));
      const grow = plan.body.optimizer_state_problem === null;
      const job = await api.work("/v1/growths", {
        checkpoint: "base",
        name,
        ...growth,
        optimizer_state: grow ? "grow" : "drop",
      });
      const { receipt } = job.result;
      for (const field of [
        "operator",
        "axis",
        "layer_map",
        "new_layers",
        "num_parameters",
        "new_bytes",
        "shared_bytes",
        "preserves_function",
        "growth_factor",
      ]) {
        assert.deepEqual(receipt[field], plan.body[field], field);
      }
      assert.equal(receipt.verified, true);
      assert.equal((await api.call("GET", `/v1/checkpoints/${name}`)).body.optimizer_state, grow);
      const trained = await api.work("/v1/trainings", {
        ...training,
        checkpoint: name,
        tokens: 16 * 64,
        optimizer_state: grow ? "continue" : "restart",
        optimizer: { learning_rate: 0.01 },
      });
      const loss = await firstLoss(trained.id);
      if (receipt.preserves_function) assert.ok(Math.abs(loss - baseLoss) < 1e-4, `${loss} after, ${baseLoss} before`);
      else assert.ok(Math.abs(loss - baseLoss) > 1e-3);
      assert.ok(trained.result.train_loss < loss, `${loss} -> ${trained.result.train_loss}`);
      const after = (await api.call("GET", `/v1/checkpoints/${trained.result.checkpoint}`)).body;
      assert.equal(after.growth_mask, null, "a finished ramp leaves a plain model");
    });
  }

  test("a ramp is state of the checkpoint: it goes on from where a training left it, and saved points carry it", async () => {
    await api.work("/v1/growths", {
      checkpoint: "base",
      name: "fading",
      operator: "random",
      axis: "width",
      factor: 2,
      params: { ramp_steps: 8, stages: 3 },
    });
    const mask = async (checkpoint: string) =>
      (await api.call("GET", `/v1/checkpoints/${checkpoint}`)).body.growth_mask;
    assert.deepEqual(await mask("fading"), { step: 0, ramp_steps: 8, stages: 3 });
    const first = await api.work("/v1/trainings", {
      ...training,
      checkpoint: "fading",
      tokens: 3 * 64,
      name: "faded-3",
      keep_optimizer_state: true,
    });
    assert.deepEqual(await mask("faded-3"), { step: 3, ramp_steps: 8, stages: 3 });
    const whole = await api.work("/v1/trainings", {
      ...training,
      checkpoint: "fading",
      tokens: 6 * 64,
      schedule: { type: "constant" },
    });
    const rest = await api.work("/v1/trainings", {
      ...training,
      checkpoint: "faded-3",
      tokens: 3 * 64,
      schedule: { type: "constant" },
      skip_tokens: 3 * 64,
      optimizer_state: "continue",
    });
    assert.deepEqual(await mask(rest.result.checkpoint), await mask(whole.result.checkpoint));
    assert.ok(first.result.train_loss > 0);
    // What downloads is folded: it computes what the checkpoint does, without knowing of a mask.
    const folder = join(api.settings.importRoots[0]!, "folded");
    await writeViewFiles(
      await api.services.store.checkpoints.resolve(await api.services.store.checkpoints.get("faded-3")),
      folder,
    );
    await api.work("/v1/checkpoints", { name: "folded", source: { type: "directory", path: folder } });
    assert.equal(await mask("folded"), null);
    const plainly = await api.work("/v1/trainings", {
      ...training,
      checkpoint: "folded",
      tokens: 64,
      skip_tokens: 3 * 64,
    });
    assert.ok(Math.abs((await firstLoss(plainly.id)) - (await firstLoss(rest.id))) < 1e-5);
    const refused = await api.call("POST", "/v1/growth-plans", {
      body: { checkpoint: "faded-3", operator: "direct", axis: "depth", factor: 2 },
    });
    assertProblem(refused, 422, "unprocessable");
    assert.equal(refused.body.errors[0].pointer, "/checkpoint");
  });

  test("frozen tensors keep their bytes and share them: new layers, new parameters, patterns", async () => {
    await api.work("/v1/growths", { checkpoint: "base", name: "pro", operator: "zero", axis: "depth", factor: 2 });
    const before = await tensorsOf("pro");
    const added = (name: string): boolean => /^model\.layers\.(1|3)\./.test(name);
    const cases: readonly [trainable: unknown, changes: (name: string) => boolean][] = [
      ["new_layers", added],
      ["new_parameters", added],
      [["model.layers.*.mlp.*", "*norm.weight"], (name) => /\.mlp\.|norm\.weight$/.test(name)],
    ];
    for (const [trainable, changes] of cases) {
      const { result } = await api.work("/v1/trainings", {
        ...training,
        checkpoint: "pro",
        tokens: 3 * 64,
        trainable,
        keep_optimizer_state: true,
      });
      const after = await tensorsOf(result.checkpoint);
      for (const [index, tensor] of after.tensors.entries()) {
        if (changes(tensor.name)) assert.notEqual(tensor.blob, before.tensors[index]!.blob, tensor.name);
        else assert.deepEqual(tensor, before.tensors[index], tensor.name);
      }
      assert.ok(
        after.tensors.filter(({ name, sha256 }, index) => changes(name) && sha256 !== before.tensors[index]!.sha256)
          .length > 5,
      );
      assert.deepEqual(
        after.optimizer?.firstMoments.map(({ name }) => name),
        before.tensors.map(({ name }) => name).filter(changes),
      );
      // What was trained once is trained again: the growth is remembered along the lineage.
      if (trainable === "new_layers") {
        await api.work("/v1/trainings", {
          ...training,
          checkpoint: result.checkpoint,
          tokens: 64,
          trainable,
          optimizer_state: "continue",
        });
      }
    }
  });

  test("impossible trainings name the field: nothing grown, no match, no state to go on with", async () => {
    const refused = async (body: object, pointer: string): Promise<void> => {
      const answer = await api.call("POST", "/v1/trainings", {
        body: { ...training, checkpoint: "scratch", tokens: 64, ...body },
      });
      assertProblem(answer, 422, "unprocessable");
      assert.equal(answer.body.errors[0].pointer, pointer);
    };
    await refused({ trainable: "new_layers" }, "/trainable");
    await refused({ trainable: ["lm_head.weight", "model.layers.7.*"] }, "/trainable/1");
    await refused({ optimizer_state: "continue" }, "/optimizer_state");
  });

  const impossible: Readonly<Record<string, [body: object, pointer: RegExp, reason: RegExp]>> = {
    "a smaller target": [
      { operator: "direct", axis: "width", params: { target: { hidden_size: 8 } } },
      /^\/params\/target\/hidden_size$/,
      /never shrinks/,
    ],
    "heads that do not divide": [
      { operator: "direct", axis: "width", params: { target: { hidden_size: 18, num_attention_heads: 4 } } },
      /^\/params\/target\/hidden_size$/,
      /do not divide/,
    ],
    "an unknown pattern": [
      { operator: "direct", axis: "depth", params: { pattern: "zigzag" } },
      /^\/params\/pattern$/,
      /zigzag/,
    ],
    "a layer out of range": [
      { operator: "direct", axis: "depth", params: { layers: [0, 1, 7] } },
      /^\/params\/layers\/2$/,
      /7/,
    ],
    "a list that is too long": [
      { operator: "direct", axis: "depth", params: { layers: new Array(1025).fill(0) } },
      /^\/params\/layers$/,
      /1025/,
    ],
    "too many layers": [{ operator: "zero", axis: "depth", factor: 1024 }, /^\/factor$/, /1024/],
    "a step that cannot be": [
      {
        params: {
          steps: [
            { operator: "direct", axis: "depth", factor: 2 },
            { operator: "zero", axis: "width", params: { target: { intermediate_size: 3 } } },
          ],
        },
      },
      /^\/params\/steps\/1\/params\/target\/intermediate_size$/,
      /never shrinks/,
    ],
  };
  for (const [title, [body, pointer, reason]] of Object.entries(impossible)) {
    test(`${title} is refused as 422 before anything is done, for plan and growth alike`, async () => {
      for (const path of ["/v1/growth-plans", "/v1/growths"]) {
        const answer = await api.call("POST", path, { body: { checkpoint: "base", ...body } });
        assertProblem(answer, 422, "unprocessable");
        assert.match(answer.body.errors[0].pointer, pointer);
        assert.match(answer.body.errors[0].detail, reason);
      }
    });
  }

  test("another architecture is refused as 422 by the name of its field; a growth without operator, or with operator beside steps, as 400", async () => {
    const plan = (body: object) => api.call("POST", "/v1/growth-plans", { body });
    const mistral = { ...tinySource.config, model_type: "mistral", architectures: ["MistralForCausalLM"] };
    const other = await plan({ config: mistral, operator: "direct", axis: "depth", factor: 2 });
    assertProblem(other, 422, "checkpoint_unsupported");
    assert.equal(other.body.errors[0].pointer, "/config/architectures");
    for (const body of [
      { axis: "depth", factor: 2 },
      { operator: "direct", axis: "depth", params: { steps: [] } },
    ]) {
      const answer = await plan({ checkpoint: "base", ...body });
      assertProblem(answer, 400, "invalid_request");
      assert.equal(answer.body.errors[0].pointer, "/operator");
    }
    const grown = await api.call("POST", "/v1/growths", {
      body: { checkpoint: "base", operator: "direct", axis: "width", factor: 2, optimizer_state: "grow" },
    });
    assertProblem(grown, 422, "unprocessable");
    assert.equal(grown.body.errors[0].pointer, "/optimizer_state");
  });
});
