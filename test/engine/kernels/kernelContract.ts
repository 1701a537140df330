/**
 * The contract of the kernel seam, run on every implementation: values against float64, gradients against
 * finite differences taken in float64, NaN and infinity carried through, inputs left alone, no tensor left
 * over, and the same bytes when run again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import type { TfjsBackendName } from "../../../src/engine/backends/tfjsRuntime.ts";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import type { KernelCase } from "./kernelCases.ts";
import { kernelCases } from "./kernelCases.ts";
import { nonFiniteContract } from "./nonFiniteContract.ts";
import { optimizerContract } from "./optimizerContract.ts";
import type { Values } from "./kernelTruth.ts";

/** How far values and gradients may be off, relative to the largest value. */
export interface Tolerances {
  readonly value: number;
  readonly gradient: number;
}

/** Float32 against float64 at these sizes. */
const float32Tolerances: Tolerances = { value: 2e-5, gradient: 1e-4 };
/** Elements of an input that are checked one by one; the others by directional derivatives. */
const probes = 24;
const directions = 4;
const differenceStep = 1e-5;

/**
 * Defines the tests of one implementation on one tfjs backend.
 * @param only titles of the operations that it has of its own, where the rest is another's that is tested too
 */
export function kernelContract(
  backend: TfjsBackendName,
  name: string,
  makeKernels: () => Promise<Kernels>,
  tolerances = float32Tolerances,
  only: RegExp | null = null,
): void {
  let made: Promise<Kernels> | null = null;
  const kernels = async (): Promise<Kernels> => {
    await activateTfjs(backend);
    return (made ??= makeKernels());
  };
  const title = `${backend}/${name}`;
  for (const one of kernelCases.filter((candidate) => only?.test(candidate.title) ?? true)) {
    test(`${title}: ${one.title}: value and gradients are those of the definition`, async () => {
      await checkCase(await kernels(), one, tolerances);
    });
  }
  if (only !== null) return;
  nonFiniteContract(title, kernels);
  optimizerContract(title, kernels, tolerances.value);
}

/** Repeatable values around zero, rounded to float32 so that both sides see the same numbers. */
export function sample(length: number, seed: number): Values {
  let state = (seed * 2654435761 + 12345) >>> 0;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Float64Array.from({ length }, () => Math.fround((next() + next() + next() - 1.5) * 1.6));
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

async function checkCase(kernels: Kernels, one: KernelCase, tolerances: Tolerances): Promise<void> {
  const values = one.shapes.map((shape, i) => sample(sizeOf(shape), i + 1));
  const before = tf.memory().numTensors;
  const inputs = values.map((v, i) => tf.tensor(Float32Array.from(v), [...one.shapes[i]!]));

  const wanted = one.truth(values);
  const got = tf.tidy(() => one.compute(kernels, inputs));
  const again = tf.tidy(() => one.compute(kernels, inputs));
  assertClose(await got.data(), wanted, tolerances.value, "value");
  assert.deepEqual(await again.data(), await got.data(), "the same bytes again");

  if (one.gradient !== false) {
    const dy = sample(wanted.length, 99);
    const upstream = tf.tensor(Float32Array.from(dy), got.shape);
    const grads = tf.tidy(() => tf.grads((...xs: tf.Tensor[]) => one.compute(kernels, xs))(inputs, upstream));
    for (const [i, grad] of grads.entries()) {
      assert.deepEqual(grad.shape, one.shapes[i], "a gradient has its input's shape");
      checkGradient(await grad.data(), i, values, one, dy, tolerances.gradient);
    }
    tf.dispose([upstream, ...grads]);
  }
  for (const [i, input] of inputs.entries()) {
    assert.deepEqual(await input.data(), Float32Array.from(values[i]!), "inputs are left alone");
  }
  tf.dispose([...inputs, got, again]);
  assert.equal(tf.memory().numTensors, before, "no tensor is left over");
}

/** d(sum(y dy))/d(direction), by central difference in float64. */
function slope(one: KernelCase, values: readonly Values[], dy: Values, input: number, direction: Values): number {
  const along = (step: number): number => {
    const moved = values.map((v, i) => (i === input ? v.map((x, j) => x + step * direction[j]!) : v));
    return one.truth(moved).reduce((sum, y, i) => sum + y * dy[i]!, 0);
  };
  return (along(differenceStep) - along(-differenceStep)) / (2 * differenceStep);
}

function checkGradient(
  grad: ArrayLike<number>,
  input: number,
  values: readonly Values[],
  one: KernelCase,
  dy: Values,
  tolerance: number,
): void {
  const size = values[input]!.length;
  const largest = Array.from(grad).reduce((max, g) => Math.max(max, Math.abs(g)), 1);
  for (let probe = 0; probe < Math.min(probes, size); probe++) {
    const at = size <= probes ? probe : Math.floor((probe * size) / probes);
    const direction = new Float64Array(size);
    direction[at] = 1;
    const wanted = slope(one, values, dy, input, direction);
    const off = Math.abs(grad[at]! - wanted);
    assert.ok(off <= tolerance * largest, `input ${input}, element ${at}: ${grad[at]}, wanted ${wanted}`);
  }
  for (let d = 0; d < directions; d++) {
    const direction = sample(size, 7 + d);
    const wanted = slope(one, values, dy, input, direction);
    const got = Array.from(grad).reduce((sum, g, i) => sum + g * direction[i]!, 0);
    const limit = tolerance * largest * Math.sqrt(size);
    assert.ok(Math.abs(got - wanted) <= limit, `input ${input}, direction ${d}: ${got}, wanted ${wanted}`);
  }
}

/** Largest difference, relative to the largest value wanted (at least 1). */
export function assertClose(got: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number, what: string): void {
  assert.equal(got.length, wanted.length, `${what}: length`);
  let largest = 1;
  for (let i = 0; i < wanted.length; i++) largest = Math.max(largest, Math.abs(wanted[i]!));
  for (let i = 0; i < wanted.length; i++) {
    const off = Math.abs(got[i]! - wanted[i]!);
    assert.ok(off <= tolerance * largest, `${what}, element ${i}: ${got[i]}, wanted ${wanted[i]}`);
  }
}
