/**
 * Training against PyTorch: gradients of one batch, and whole runs of AdamW with accumulation, clipping,
 * schedules and both rules of decay, by transformers and torch.optim.AdamW.
 */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import type { TfjsBackendName } from "../../../src/engine/backends/tfjsRuntime.ts";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { OptimizerSettings } from "../../../src/engine/backends/work.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { KernelChoice } from "../../../src/engine/kernels/index.ts";
import { variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import type { KernelVariant } from "../../../src/engine/kernels/wasm/variants.ts";
import { loadWeights } from "../../../src/engine/model/weights.ts";
import { AdamW } from "../../../src/engine/train/adamw.ts";
import { deferredUpdates } from "../../../src/engine/train/deferredUpdates.ts";
import { localGradients } from "../../../src/engine/train/gradients.ts";
import type { MicroBatch, Model } from "../../../src/engine/train/loss.ts";
import { countTargets, lossAndGradients } from "../../../src/engine/train/loss.ts";
import { LossScale } from "../../../src/engine/train/lossScale.ts";
import { immediateUpdates, type UpdateOutcome, type Updates } from "../../../src/engine/train/updates.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { missingBf16, missingBlas } from "../../helpers/blas.ts";
import { missingGpu, missingHalf } from "../../helpers/gpu.ts";
import { maxDifference, readGolden, resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const never = new AbortController().signal;
const folder = sharedData("golden", "hf", "train");
const torch = sharedData("golden", "hf-torch");
const stories = sharedData("checkpoints", "stories260K");

/** Rows of ids as inputs and the ids that follow them. */
function shifted(ids: ArrayLike<number>, sequences: number, width: number, start = 0): MicroBatch {
  const length = width - 1;
  const inputs = new Int32Array(sequences * length);
  const targets = new Int32Array(sequences * length);
  for (let s = 0; s < sequences; s++) {
    for (let t = 0; t < length; t++) {
      inputs[s * length + t] = ids[start + s * width + t] as number;
      targets[s * length + t] = ids[start + s * width + t + 1] as number;
    }
  }
  return { ids: inputs, targets, sequences, length };
}

async function* each(batches: MicroBatch[]): AsyncGenerator<MicroBatch> {
  yield* batches;
}

interface Trainable extends Model {
  readonly config: LlamaConfig;
  readonly weights: Map<string, tf.Variable>;
}

/** What a run is computed with, and how far it may be off PyTorch's in float32. */
interface Engine {
  readonly title: string;
  readonly backend: TfjsBackendName;
  readonly choice: KernelChoice;
  readonly variant?: KernelVariant;
  readonly tolerances: Tolerances;
}

interface Tolerances {
  /** Of each step's loss, absolute. */
  readonly loss: number;
  /** Of the gradient, and of its norm at each step: relative. */
  readonly gradient: number;
  readonly norm: number;
  /** Of the final weights, absolute. */
  readonly weight: number;
}

const float32: Tolerances = { loss: 1e-4, gradient: 1e-4, norm: 1e-3, weight: 2e-3 };
/**
 * An operand keeps 8 bits: a product of two is off by 2^-8 of itself at most, and a gradient that has been through a
 * dozen of them by a few times that. Losses feel it through the weights too, whose steps AdamW brings to the size of
 * the learning rate whatever the gradient's: one whose sign the rounding turns is off by two steps. Measured with
 * AVX512_BF16: 0.012 of loss, 0.018 of a gradient, 0.023 of a norm, 0.0074 of a weight.
 */
const bfloat16: Tolerances = { loss: 2e-2, gradient: 2 ** -5, norm: 2 ** -4, weight: 2e-2 };

/**
 * A half keeps 11 bits, three more than a bfloat16: an eighth of its tolerances. Measured on llvmpipe: 0.0003 of loss,
 * 0.0033 of a gradient, 0.002 of a norm, 0.0012 of a weight.
 */
const half: Tolerances = { loss: 2.5e-3, gradient: 2 ** -8, norm: 2 ** -7, weight: 2.5e-3 };

/** The folder's weights as variables on a backend; `layers` picks source layers for a stacked model. */
async function trainable(path: string, { backend, choice, variant }: Engine, layers?: number[]): Promise<Trainable> {
  await activateTfjs(backend);
  const { kernels } = await kernelsFor(backend, choice, variant);
  const { manifest, ...rest } = resolveFolder(path);
  const order = layers ?? Array.from({ length: manifest.config.numHiddenLayers }, (_, i) => i);
  const config = { ...manifest.config, numHiddenLayers: order.length };
  const source = await loadWeights({ manifest, ...rest });
  const weights = new Map<string, tf.Variable>();
  const put = (name: string, from: string): void => {
    weights.set(
      name,
      tf.tidy(() => tf.variable(tf.add(source.get(from) as tf.Tensor, 0), true)),
    );
  };
  for (const name of source.keys()) {
    const match = /^model\.layers\.(\d+)\.(.*)$/.exec(name);
    if (!match) put(name, name);
    else
      order.forEach((from, to) => {
        if (from === Number(match[1])) put(`model.layers.${to}.${match[2]}`, name);
      });
  }
  tf.dispose([...source.values()]);
  return { kernels, config, weights };
}

async function checkGradients(
  model: Trainable,
  batch: MicroBatch,
  golden: ReturnType<typeof readGolden>,
  tolerance: number,
): Promise<void> {
  const count = countTargets(batch.targets);
  const { loss, grads } = lossAndGradients(model, batch);
  const names = [...model.weights.keys()];
  for (const [i, grad] of grads.entries()) {
    const wanted = Array.from(golden.get(names[i] as string)!.values);
    const got = Array.from(await grad.data(), (g) => g / count);
    const norm = Math.sqrt(wanted.reduce((sum, g) => sum + g * g, 0));
    const off = Math.sqrt(got.reduce((sum, g, j) => sum + (g - wanted[j]!) ** 2, 0));
    assert.ok(off <= tolerance * norm + 1e-9, `${names[i]}: off by ${off} of ${norm}`);
  }
  assert.equal(grads.length, golden.size);
  tf.dispose([loss, ...grads]);
}

interface GoldenStep {
  loss: number;
  norm: number;
  learningRate: number;
}

/** As the trainer has it: decided on the device where the kernels can. */
function updatesOf(model: Trainable, optimizer: AdamW): Updates {
  const { deferred } = model.kernels;
  if (!deferred) return immediateUpdates({ ...model, optimizer }, localGradients(model));
  const lossScale = new LossScale(deferred.scalesLoss, null);
  return deferredUpdates({ ...model, optimizer, lossScale }, deferred, () => performance.now());
}

/** Runs a golden trajectory and holds every step and the final weights against it. */
async function checkRun(
  model: Trainable,
  settings: OptimizerSettings,
  steps: GoldenStep[],
  batchesOf: (step: number) => MicroBatch[],
  final: ReturnType<typeof readGolden>,
  tolerances: Tolerances,
): Promise<void> {
  const optimizer = new AdamW(model.kernels, settings, model.weights, null);
  const updates = updatesOf(model, optimizer);
  let tensors = 0;
  const outcomes: UpdateOutcome[] = [];
  for (const [step, { learningRate }] of steps.entries()) {
    const isMeasured = step === 0 || step === steps.length - 1 || !model.kernels.deferred;
    const make = async (): Promise<readonly UpdateOutcome[]> => {
      await updates.make(each(batchesOf(step)), { learningRate, clip: settings.clip, step: step + 1 }, never);
      return updates.take(isMeasured);
    };
    let made = await make();
    // A loss scale finds its place first: updates that overflow are skipped, and made again here.
    for (let tries = 0; step === 0 && made[0]!.overflowedAt !== null && tries < 12; tries++) made = await make();
    outcomes.push(...made);
    if (step === 0) tensors = tf.memory().numTensors;
    if (isMeasured) assert.equal(tf.memory().numTensors, tensors, `step ${step} leaves no tensor over`);
  }
  assert.equal(outcomes.length, steps.length);
  for (const [step, { loss, norm }] of steps.entries()) {
    const outcome = outcomes[step]!;
    assert.deepEqual([outcome.step, outcome.overflowedAt], [step + 1, null]);
    assert.ok(Math.abs(outcome.loss - loss) <= tolerances.loss, `step ${step}: loss ${outcome.loss}, wanted ${loss}`);
    assert.ok(
      Math.abs(outcome.gradNorm - norm) <= tolerances.norm * norm,
      `step ${step}: norm ${outcome.gradNorm}, wanted ${norm}`,
    );
  }
  await updates.close();
  for (const [name, weight] of model.weights) {
    const worst = maxDifference(await weight.data(), final.get(name)!.values);
    assert.ok(worst <= tolerances.weight, `${name}: off by ${worst}`);
  }
  optimizer.dispose();
  tf.dispose([...model.weights.values()]);
}

interface GoldenRun {
  lr_per_step: number[];
  loss: number[];
  grad_norm_before_clip: number[];
}

const runs = folder
  ? readdirSync(folder)
      .filter((name) => /\.acc\d\.decay_\w+\.json$/.test(name))
      .sort()
  : [];
/** All runs go on the default kernels; on the others a spread of models, schedules and accumulation. */
const spread: Readonly<Record<string, readonly string[]>> = {
  "cpu/reference": [
    "T1_tied_gqa.cosine_lit.acc1.decay_all.json",
    "T2_untied_hd12_bias.cosine_min10.acc1.decay_matrices.json",
  ],
  "webgpu/auto": [
    "T1_tied_gqa.cosine_hf.acc2.decay_matrices.json",
    "T2_untied_hd12_bias.cosine_min10.acc1.decay_all.json",
  ],
  "webgpu/f16": [
    "T1_tied_gqa.cosine_hf.acc2.decay_matrices.json",
    "T2_untied_hd12_bias.cosine_min10.acc1.decay_matrices.json",
  ],
  "wasm/simd128": [
    "T1_tied_gqa.cosine_hf.acc2.decay_matrices.json",
    "T2_untied_hd12_bias.cosine_min10.acc1.decay_matrices.json",
  ],
  "wasm/relaxed": [
    "T1_tied_gqa.constant.acc1.decay_matrices.json",
    "T2_untied_hd12_bias.cosine_lit.acc1.decay_matrices.json",
  ],
  "wasm/reference": [
    "T1_tied_gqa.cosine_hf.acc2.decay_matrices.json",
    "T1_tied_gqa.constant.acc1.decay_matrices.json",
    "T2_untied_hd12_bias.constant.acc2.decay_all.json",
    "T2_untied_hd12_bias.cosine_lit.acc1.decay_matrices.json",
  ],
};

async function goldenRun(engine: Engine, file: string): Promise<void> {
  const path = folder as string;
  const [name] = file.split(".") as [string];
  const accumulate = Number(/\.acc(\d)\./.exec(file)![1]);
  const golden = JSON.parse(readFileSync(join(path, file), "utf8")) as GoldenRun;
  const ids = readGolden(join(path, `${name}.batches.safetensors`))
    .values()
    .next().value!;
  const [, rows, width] = ids.shape as [number, number, number];
  const model = await trainable(join(path, `${name}.init`), engine);
  const settings: OptimizerSettings = {
    type: "adamw",
    learningRate: 3e-3,
    betas: [0.9, 0.95],
    eps: 1e-8,
    weightDecay: 0.1,
    decay: file.includes("decay_all") ? "all" : "matrices",
    clip: 1,
  };
  const steps = golden.lr_per_step.map((learningRate, i) => ({
    learningRate,
    loss: golden.loss[i] as number,
    norm: golden.grad_norm_before_clip[i] as number,
  }));
  const batchesOf = (step: number): MicroBatch[] =>
    Array.from({ length: accumulate }, (_, a) =>
      shifted(ids.values, rows, width, (step * accumulate + a) * rows * width),
    );
  const final = readGolden(join(path, file.replace(/json$/, "final.safetensors")));
  await checkRun(model, settings, steps, batchesOf, final, engine.tolerances);
}

const engines: readonly Engine[] = [
  { title: "cpu/reference", backend: "cpu", choice: "reference", tolerances: float32 },
  { title: "wasm/reference", backend: "wasm", choice: "reference", tolerances: float32 },
  { title: "wasm/auto", backend: "wasm", choice: "auto", tolerances: float32 },
  ...(["simd128", "relaxed"] as const).filter(variantRuns).map((variant): Engine => {
    return { title: `wasm/${variant}`, backend: "wasm", choice: "wasm-simd", variant, tolerances: float32 };
  }),
  ...((await missingBlas()) === null
    ? [{ title: "wasm/native", backend: "wasm", choice: "native", tolerances: float32 } as const]
    : []),
  ...((await missingGpu()) === null
    ? [{ title: "webgpu/auto", backend: "webgpu", choice: "auto", tolerances: float32 } as const]
    : []),
  ...((await missingHalf()) === null
    ? [{ title: "webgpu/f16", backend: "webgpu", choice: "webgpu-f16", tolerances: half } as const]
    : []),
  ...((await missingBf16()) === null
    ? [{ title: "wasm/native-bf16", backend: "wasm", choice: "native-bf16", tolerances: bfloat16 } as const]
    : []),
];
for (const engine of engines) {
  for (const name of ["T1_tied_gqa", "T2_untied_hd12_bias"]) {
    test(`${engine.title}: the gradients of ${name} are PyTorch's`, needsShared(folder), async () => {
      const model = await trainable(join(folder as string, `${name}.init`), engine);
      const ids = readGolden(join(folder as string, `${name}.batches.safetensors`))
        .values()
        .next().value!;
      const golden = readGolden(join(folder as string, `${name}.grads_first_batch.safetensors`));
      await checkGradients(
        model,
        shifted(ids.values, ids.shape[1]!, ids.shape[2]!),
        golden,
        engine.tolerances.gradient,
      );
      tf.dispose([...model.weights.values()]);
    });
  }
  for (const file of runs.filter((run) => spread[engine.title]?.includes(run) ?? true)) {
    test(`${engine.title}: the run ${file} goes as in PyTorch, step by step`, () => goldenRun(engine, file));
  }
}

interface TorchGolden {
  train: Record<string, { loss: number; lr: number; grad_norm: number }[]>;
}

for (const engine of engines.filter(({ title }) => title !== "cpu/reference" && title !== "wasm/relaxed")) {
  for (const [name, layers] of [
    ["stories260K", undefined],
    ["stack_x2", [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]],
  ] as const) {
    const isSlow = engine.choice === "reference" || engine.backend === "webgpu" || engine.variant;
    if (layers && isSlow) continue; // slow, and the same arithmetic once more
    test(`${engine.title}: 20 steps of ${name} go as in PyTorch`, needsShared(torch, stories), async () => {
      const path = torch as string;
      const { train } = JSON.parse(readFileSync(join(path, "golden.json"), "utf8")) as TorchGolden;
      const bytes = readFileSync(join(path, "train_batches_20x4x129.i32"));
      const ids = new Int32Array(new Uint8Array(bytes).buffer);
      const model = await trainable(stories as string, engine, layers ? [...layers] : undefined);
      const { tolerances } = engine;
      const gradients = readGolden(join(path, "grad_step0.safetensors"));
      if (!layers) await checkGradients(model, shifted(ids, 4, 129), gradients, tolerances.gradient);
      const settings: OptimizerSettings = {
        type: "adamw",
        learningRate: 1e-3,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weightDecay: 0.1,
        decay: "matrices",
        clip: 1,
      };
      const steps = train[name]!.map(({ loss, lr, grad_norm }) => ({ loss, learningRate: lr, norm: grad_norm }));
      const final = readGolden(join(path, `train_${name}_final.safetensors`));
      await checkRun(model, settings, steps, (step) => [shifted(ids, 4, 129, step * 4 * 129)], final, tolerances);
    });
  }
}
