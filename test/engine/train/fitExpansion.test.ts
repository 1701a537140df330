/** Fitting a learned expansion: the grown weights in the tape, their gradients, and a fit that stops and goes on. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TfjsBackendName } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { FitWork } from "../../../src/engine/backends/work.ts";
import { readTensors } from "../../../src/engine/checkpoint/tensorReader.ts";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { KernelChoice } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { loadWeights } from "../../../src/engine/model/weights.ts";
import { expandWeights } from "../../../src/engine/train/expandWeights.ts";
import { fitExpansion } from "../../../src/engine/train/fitExpansion.ts";
import { batchLoss, lossAndGradients } from "../../../src/engine/train/loss.ts";
import { elementCount } from "../../../src/ops/dtype.ts";
import type { TrainingState, WorkEvent } from "../../../src/ops/events.ts";
import { learnedPlan, planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyConfig,
  tinyDataset,
} from "./trainerFixture.ts";

const never = new AbortController().signal;
const folder = temporaryFolder();
const backends: [TfjsBackendName, KernelChoice][] = [
  ["cpu", "reference"],
  ["wasm", "reference"],
  ["wasm", "auto"],
];

const fitParams = { fit_steps: 5, batch_tokens: 32, sequence_length: 8, micro_batch_sequences: 2, learning_rate: 0.02 };
const requests: Readonly<Record<string, GrowthPlanRequest>> = {
  depth: { operator: "learn", axis: "depth", factor: 2, params: fitParams },
  width: { operator: "learn", axis: "width", factor: 2, params: fitParams, seed: 4 },
  both: {
    operator: "learn",
    axis: "width",
    seed: 1,
    params: {
      ...fitParams,
      target: { hidden_size: 20, num_attention_heads: 4, num_key_value_heads: 2 },
      num_hidden_layers: 3,
    },
  },
};

async function setUp(
  backend: TfjsBackendName,
  choice: KernelChoice,
  request: GrowthPlanRequest,
): Promise<{ kernels: Kernels; work: FitWork }> {
  await activateTfjs(backend);
  const { kernels } = await kernelsFor(backend, choice);
  const source = await tinyCheckpoint(folder);
  return {
    kernels,
    work: {
      source,
      request,
      dataset: tinyDataset(folder),
      skipTokens: 3,
      saveEveryMs: 1e9,
      resume: null,
      blobDir: folder,
    },
  };
}

const run = (work: FitWork, kernels: Kernels): Promise<WorkEvent[]> =>
  collect(fitExpansion(work, kernels, never, { memoryBytes: null }));

/** A fit's parameters as they were written down. */
async function parametersOf(state: TrainingState): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>();
  const end = Math.max(...state.weights.map(({ offset, sizeBytes }) => offset + sizeBytes));
  const { blob } = state.weights[0]!;
  for await (const { info, values: read } of readTensors(
    { [blob]: blobLocation(folder, { digest: blob, sizeBytes: end }) },
    state.weights,
  )) {
    values.set(info.name, read);
  }
  return values;
}

const ids = Int32Array.from({ length: 16 }, (_, i) => (i * 7) % tinyConfig.vocabSize);
const batch = { ids, targets: ids.map((_, i) => (i % 8 === 7 ? -1 : ids[i + 1]!)), sequences: 2, length: 8 };

for (const [backend, choice] of backends) {
  for (const [what, request] of Object.entries(requests)) {
    test(`${backend}/${choice}, ${what}: the tape's grown weights are those that are materialised, and their loss has the gradient of differences`, async () => {
      const { kernels, work } = await setUp(backend, choice, request);
      const plan = planGrowth(work.source.manifest, request);
      const { expansion } = plan.fit!;
      const source = await loadWeights(work.source);
      // away from the start, where most of a map is zero
      const values = new Map(
        expansion.parameters.map(({ name, shape, initial }) => {
          const noise = seededStream(2, name).fillNormal(new Float32Array(elementCount(shape)), 0.1);
          return [name, initial().map((value, i) => value + noise[i]!)];
        }),
      );
      const recipes = learnedPlan(work.source.manifest, plan, (name) => values.get(name)!).tensors;
      const model = { kernels, expansion, target: plan.targetConfig, source };
      const parameters = new Map(
        expansion.parameters.map(({ name, shape }) => [name, tf.variable(tf.tensor2d(values.get(name)!, [...shape]))]),
      );
      const before = tf.memory().numTensors;

      const grown = new Map(Object.entries(tf.tidy(() => Object.fromEntries(expandWeights(model, parameters)))));
      const sourceValues = new Map(
        await Promise.all(
          [...source].map(async ([name, tensor]) => [name, (await tensor.data()) as Float32Array] as const),
        ),
      );
      for (const { info, recipe } of recipes) {
        const want =
          recipe.type === "copy"
            ? sourceValues.get(recipe.source)!
            : recipe.build(recipe.inputs.map((name) => sourceValues.get(name)!));
        const got = await grown.get(info.name)!.data();
        assert.deepEqual(grown.get(info.name)!.shape, info.shape);
        want.forEach((value, i) =>
          assert.ok(Math.abs(got[i]! - value) <= 2e-5, `${info.name} ${i}: ${got[i]} ${value}`),
        );
      }
      tf.dispose([...grown.values()].filter((tensor) => ![...source.values()].includes(tensor)));

      const derived = {
        kernels,
        config: plan.targetConfig,
        weights: parameters,
        derive: (named: ReadonlyMap<string, tf.Tensor>) => expandWeights(model, named),
      };
      const { loss, grads } = lossAndGradients(derived, batch);
      const here = (await loss.data())[0]!;
      assert.ok(Math.abs(here - (await batchLoss(derived, batch))) <= 1e-4 * here);
      const names = [...parameters.keys()];
      for (const [i, name] of names.entries()) {
        const variable = parameters.get(name)!;
        const direction = seededStream(9, name).fillNormal(new Float32Array(variable.size), 1);
        const slope = ((await grads[i]!.data()) as Float32Array).reduce(
          (sum, grad, at) => sum + grad * direction[at]!,
          0,
        );
        const shifted = async (by: number): Promise<number> => {
          tf.tidy(() =>
            variable.assign(
              tf.tensor2d(
                values.get(name)!.map((v, at) => v + by * direction[at]!),
                variable.shape as [number, number],
              ),
            ),
          );
          return batchLoss(derived, batch);
        };
        const difference = ((await shifted(2e-3)) - (await shifted(-2e-3))) / 4e-3;
        await shifted(0);
        assert.ok(
          Math.abs(difference - slope) <= 0.02 * Math.max(2, Math.abs(slope)),
          `${name}: ${slope} by the tape, ${difference} by differences`,
        );
      }
      tf.dispose([loss, ...grads]);
      assert.equal(tf.memory().numTensors, before, "no tensor is left over");
      tf.dispose([...parameters.values(), ...source.values()]);
    });
  }

  test(`${backend}/${choice}: a fit lowers the loss of the grown model, and what is materialised has the loss that was told`, async () => {
    const { kernels, work } = await setUp(backend, choice, {
      ...requests["depth"]!,
      params: { ...fitParams, fit_steps: 25, learning_rate: 0.1 },
    });
    const events = await run(work, kernels);
    const { state, validationLoss } = resultOf(events);
    const losses = events.flatMap((event) => (event.type === "metrics" ? [event.point.loss!] : []));
    assert.equal(losses.length, 25);
    assert.ok(losses.at(-1)! < losses[0]! - 0.1, `${losses[0]} ${losses.at(-1)}`);
    assert.equal(state.tokens, 25 * 32);
    const plan = planGrowth(work.source.manifest, work.request);
    assert.equal(state.flops, 6 * plan.numParameters * 25 * 32, "charged at the target's size");
    assert.deepEqual(
      state.weights.map(({ name }) => name),
      plan.fit!.expansion.parameters.map(({ name }) => name),
    );
    const values = await parametersOf(state);
    const source = await loadWeights(work.source);
    const read = new Map(
      await Promise.all(
        [...source].map(async ([name, tensor]) => [name, (await tensor.data()) as Float32Array] as const),
      ),
    );
    const weights = new Map(
      learnedPlan(work.source.manifest, plan, (name) => values.get(name)!).tensors.map(({ info, recipe }) => [
        info.name,
        tf.tensor(
          recipe.type === "copy"
            ? read.get(recipe.source)!
            : recipe.build(recipe.inputs.map((name) => read.get(name)!)),
          [...info.shape],
        ),
      ]),
    );
    const model = { kernels, config: plan.targetConfig, weights };
    const { validationLoss: score } = await import("../../../src/engine/train/validate.ts");
    const measured = await score(model, work.dataset, { sequenceLength: 8, sequences: 2, maxTokens: 65_536 }, never);
    assert.ok(Math.abs(measured! - validationLoss!) <= 1e-5 * measured!, `${measured} ${validationLoss}`);
    tf.dispose([...weights.values(), ...source.values()]);
  });

  test(`${backend}/${choice}: a fit stopped after any update and resumed ends with the same bytes`, async () => {
    const { kernels, work } = await setUp(backend, choice, requests["both"]!);
    const tensors = tf.memory().numTensors;
    const wanted = digestsOf(resultOf(await run(work, kernels)).state);
    assert.equal(tf.memory().numTensors, tensors, "no tensor is left over");
    assert.equal(Object.keys(wanted).length, 13);
    for (const step of [1, 3, 4]) {
      const controller = new AbortController();
      const first = await collect(fitExpansion(work, kernels, controller.signal, { memoryBytes: null }), (event) => {
        if (event.type === "metrics" && event.point.step === step) controller.abort();
      });
      assert.equal(first.at(-1)!.type, "stopped");
      const saved = first.findLast((event) => event.type === "saved")!;
      const resume = JSON.parse(JSON.stringify(saved.state)) as TrainingState;
      assert.equal(resume.step, step);
      assert.deepEqual(
        digestsOf(resultOf(await run({ ...work, resume }, kernels)).state),
        wanted,
        `stopped after ${step}`,
      );
    }
  });
}
