/** The part of the kernel contract about updates that the device decides on (`kernels/deferred.ts`). */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import type { DeferredUpdates } from "../../../src/engine/kernels/deferred.ts";
import { largestLossScale, readDecision, updatesUntilGrowth } from "../../../src/engine/kernels/deferred.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { assertClose, sample } from "./kernelContract.ts";
import type { AdamwTruth } from "./kernelTruth.ts";
import { adamwTruth } from "./kernelTruth.ts";

const shapes = [[7, 5], [33, 65], [3]];
const adamw = { learningRate: 0.02, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1 };
const tokens = 48;

/** Weights of a few shapes with their moments, as they are on the device and as they should be. */
class Trained {
  readonly slots = shapes.map((shape, i) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const w = sample(size, i + 1);
    const variable = (values: Float32Array): tf.Variable => tf.tidy(() => tf.variable(tf.tensor(values, shape), false));
    return {
      ...{ shape, size, w: variable(Float32Array.from(w)) },
      ...{ m: variable(new Float32Array(size)), v: variable(new Float32Array(size)) },
      truth: { w, m: new Float64Array(size), v: new Float64Array(size) } as AdamwTruth,
    };
  });
  readonly scale: tf.Variable;

  constructor(state: [scale: number, good: number, skipped: number]) {
    this.scale = tf.tidy(() => tf.variable(tf.tensor1d(state), false));
  }

  /** One update; `spoil` may change the gradients or the loss. */
  async update(
    deferred: DeferredUpdates,
    step: number,
    clip: number | null,
    spoil: { loss?: number; gradient?: number; scale?: number } = {},
  ): Promise<ReturnType<typeof readDecision>> {
    const { scale = 1 } = spoil;
    const values = this.slots.map(({ size }, i) => sample(size, 10 * step + i).map((g) => g * scale));
    if (spoil.gradient !== undefined) values[1]![1000] = spoil.gradient;
    const grads = values.map((list, i) => tf.tensor(Float32Array.from(list), this.slots[i]!.shape));
    const loss = tf.scalar(spoil.loss ?? 12.5);
    const terms = { tokens, clip, step, beta1: adamw.beta1, beta2: adamw.beta2 };
    const decision = deferred.decide(loss, grads, terms, this.scale);
    for (const [i, { w, m, v }] of this.slots.entries()) deferred.adamw(w, grads[i]!, m, v, adamw, decision);
    const read = readDecision((await decision.data()) as Float32Array);
    tf.dispose([loss, decision, ...grads]);
    return read;
  }

  /** What `update` should have done, at update `step` of those made. */
  expect(seed: number, step: number, clip: number | null): number {
    const values = this.slots.map(({ size }, i) => sample(size, 10 * seed + i));
    const squares = values.reduce((sum, list) => sum + list.reduce((s, g) => s + g * g, 0), 0);
    const norm = Math.sqrt(squares) / tokens;
    const gradScale = (clip === null ? 1 : Math.min(1, clip / (norm + 1e-6))) / tokens;
    for (const [i, slot] of this.slots.entries()) {
      slot.truth = adamwTruth(slot.truth, values[i]!, { ...adamw, gradScale, step });
    }
    return norm;
  }

  async check(): Promise<void> {
    for (const { w, m, v, truth } of this.slots) {
      assertClose(await w.data(), truth.w, 2e-5, "weight");
      assertClose(await m.data(), truth.m, 2e-6, "first moment");
      assertClose(await v.data(), truth.v, 2e-6, "second moment");
    }
  }

  async bytes(): Promise<Float32Array[]> {
    const tensors = this.slots.flatMap(({ w, m, v }) => [w, m, v]);
    return Promise.all(tensors.map(async (tensor) => (await tensor.data()) as Float32Array));
  }

  async state(): Promise<number[]> {
    return Array.from(await this.scale.data());
  }

  dispose(): void {
    tf.dispose([this.scale, ...this.slots.flatMap(({ w, m, v }) => [w, m, v])]);
  }
}

/** @param scales whether the kernels scale the loss */
export function deferredContract(title: string, kernels: () => Promise<Kernels>, scales: boolean): void {
  const deferredOf = async (): Promise<DeferredUpdates> => {
    const { deferred } = await kernels();
    assert.ok(deferred);
    assert.equal(deferred.scalesLoss, scales);
    return deferred;
  };

  for (const clip of [null, 0.05]) {
    test(`${title}: five updates decided on the device are AdamW's, clipped at ${clip}, and their norms are told`, async () => {
      const deferred = await deferredOf();
      const before = tf.memory().numTensors;
      const trained = new Trained([1, 0, 0]);
      for (let step = 1; step <= 5; step++) {
        const { lossSum, gradNorm, applied, lossScale } = await trained.update(deferred, step, clip);
        const norm = trained.expect(step, step, clip);
        assert.ok(Math.abs(gradNorm - norm) < 1e-5 * norm, `${gradNorm}, wanted ${norm}`);
        assert.deepEqual([lossSum, applied, lossScale], [12.5, true, 1]);
      }
      await trained.check();
      trained.dispose();
      assert.equal(tf.memory().numTensors, before, "no tensor is left over");
    });
  }

  test(`${title}: an update whose loss or gradient is not finite changes no bit, and is not counted as one made`, async () => {
    const deferred = await deferredOf();
    const trained = new Trained([1, 0, 0]);
    await trained.update(deferred, 1, 1);
    trained.expect(1, 1, 1);
    const before = await trained.bytes();
    let step = 1;
    for (const spoil of [{ loss: NaN }, { loss: Infinity }, { gradient: NaN }, { gradient: -Infinity }]) {
      assert.equal((await trained.update(deferred, ++step, 1, spoil)).applied, false);
      assert.deepEqual(await trained.bytes(), before);
    }
    assert.equal((await trained.state())[2], 4);
    await trained.update(deferred, ++step, 1);
    trained.expect(step, 2, 1);
    await trained.check();
    trained.dispose();
  });

  if (scales) scalingContract(title, deferredOf);
}

function scalingContract(title: string, deferredOf: () => Promise<DeferredUpdates>): void {
  test(`${title}: a scaled gradient gives the update and the norm of the unscaled one`, async () => {
    const deferred = await deferredOf();
    const trained = new Trained([1024, 0, 0]);
    const { gradNorm } = await trained.update(deferred, 1, 0.05, { scale: 1024 });
    const norm = trained.expect(1, 1, 0.05);
    assert.ok(Math.abs(gradNorm - norm) < 1e-5 * norm);
    await trained.check();
    trained.dispose();
  });

  test(`${title}: the scale halves at an overflow, to no less than 1, and doubles after ${updatesUntilGrowth} updates without`, async () => {
    const deferred = await deferredOf();
    for (const [from, spoil, to] of [
      [[8, 5, 0], { gradient: Infinity }, [4, 0, 1]],
      [[1, 5, 2], { gradient: NaN }, [1, 0, 3]],
      [[8, 5, 1], {}, [8, 6, 1]],
      [[8, updatesUntilGrowth - 1, 0], {}, [16, 0, 0]],
      [[largestLossScale, updatesUntilGrowth - 1, 0], {}, [largestLossScale, 0, 0]],
    ] as [[number, number, number], { gradient?: number }, number[]][]) {
      const trained = new Trained(from);
      const { applied, lossScale } = await trained.update(deferred, 4, 1, spoil);
      assert.equal(applied, spoil.gradient === undefined);
      assert.equal(lossScale, from[0], "the scale that the update was made at");
      assert.deepEqual(await trained.state(), to);
      trained.dispose();
    }
  });
}
