/**
 * Updates decided on the GPU (`../deferred.ts`): sums of squares as `sumOfSquares` makes them, one workgroup that adds
 * them up and decides, and an AdamW that reads its factors from the decision.
 */
import type * as tf from "@tensorflow/tfjs";
import type { DeferredUpdates } from "../deferred.ts";
import { decisionSize, largestLossScale, updatesUntilGrowth } from "../deferred.ts";
import { requireShape } from "../wasm/fused.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { recordSquares } from "./optimizer.ts";
import { defineProgram, groupSum } from "./program.ts";

const size = 64;
/** Keeps clipping from dividing by zero; torch's `clip_grad_norm_` uses the same. */
const clipEps = "1e-6";
/** Logarithm of a decay of 0; its powers are 0. */
const leastLog = -100;

/**
 * Bits, not comparisons: a driver may assume that no float is infinite. 1 - beta^t is the series of -expm1 where the
 * difference would lose digits.
 */
const decide = defineProgram({
  name: "decision on an update",
  buffers: [{ name: "loss" }, { name: "parts" }, { name: "state", write: true }, { name: "decision", write: true }],
  numbers: [
    ["count", "u32"],
    ["tokens", "f32"],
    ["clip", "f32"],
    ["step", "f32"],
    ["logBeta1", "f32"],
    ["logBeta2", "f32"],
    ["scaled", "u32"],
  ],
  body: `${groupSum(size)}
fn isFinite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
fn oneMinusPower(logBeta: f32, t: f32) -> f32 {
  let x = logBeta * t;
  if (x < -0.5) { return 1.0 - exp(x); }
  var series = 1.0;
  for (var i = 9.0; i > 1.0; i -= 1.0) { series = 1.0 + x / i * series; }
  return -x * series;
}
@compute @workgroup_size(${size})
fn main(@builtin(local_invocation_index) lane: u32) {
  var part = 0.0;
  for (var i = lane; i < p.count; i += ${size}u) { part += parts[i]; }
  let squares = sumOfGroup(lane, part);
  if (lane != 0u) { return; }
  let scale = state[0];
  let norm = sqrt(squares) / scale / p.tokens;
  let applied = isFinite(loss[0]) && isFinite(squares);
  var factor = 1.0;
  if (p.clip > 0.0) { factor = min(1.0, p.clip / (norm + ${clipEps})); }
  let t = p.step - state[2];
  decision[0] = loss[0];
  decision[1] = norm;
  decision[2] = factor / p.tokens / scale;
  decision[3] = select(0.0, 1.0, applied);
  decision[4] = 1.0 / oneMinusPower(p.logBeta1, t);
  decision[5] = sqrt(oneMinusPower(p.logBeta2, t));
  decision[6] = scale;
  decision[7] = 0.0;
  if (!applied) { state[2] += 1.0; }
  if (p.scaled == 0u) { return; }
  if (!applied) {
    state[0] = max(1.0, scale * 0.5);
    state[1] = 0.0;
  } else if (state[1] + 1.0 >= ${updatesUntilGrowth}.0) {
    state[0] = min(${largestLossScale}.0, scale * 2.0);
    state[1] = 0.0;
  } else { state[1] += 1.0; }
}`,
});

const adamw = defineProgram({
  name: "adamw as decided",
  buffers: [
    { name: "w", write: true },
    { name: "grad" },
    { name: "m", write: true },
    { name: "v", write: true },
    { name: "decision" },
  ],
  numbers: [
    ["count", "u32"],
    ["beta1", "f32"],
    ["rest1", "f32"],
    ["beta2", "f32"],
    ["rest2", "f32"],
    ["decay", "f32"],
    ["learningRate", "f32"],
    ["eps", "f32"],
  ],
  body: eachElement(
    "p.count",
    `if (decision[3] == 0.0) { return; }
  let g = grad[i] * decision[2];
  let first = m[i] * p.beta1 + g * p.rest1;
  let second = v[i] * p.beta2 + g * g * p.rest2;
  m[i] = first;
  v[i] = second;
  let stepSize = p.learningRate * decision[4];
  w[i] = w[i] * p.decay - stepSize * (first / (sqrt(second) / decision[5] + p.eps));`,
  ),
});

/** @param scalesLoss whether the kernels' gradients want a scaled loss */
export function makeDeferred(gpu: Gpu, scalesLoss: boolean): DeferredUpdates {
  const logOf = (beta: number): number => (beta > 0 ? Math.log(beta) : leastLog);
  return {
    scalesLoss,
    decide(loss, grads, { tokens, clip, step, beta1, beta2 }, lossScale) {
      const parts = recordSquares(gpu, grads);
      const decision = gpu.output<tf.Tensor1D>([decisionSize]);
      gpu.writable(lossScale);
      const numbers = [parts.size, tokens, clip ?? 0, step, logOf(beta1), logOf(beta2), scalesLoss ? 1 : 0];
      gpu.run(decide, [loss, parts, lossScale, decision], { groups: [1], numbers, passing: true });
      parts.dispose();
      return decision;
    },
    adamw(weight, grad, m, v, { learningRate, beta1, beta2, eps, weightDecay }, decision) {
      for (const [name, tensor] of Object.entries({ grad, m, v })) {
        requireShape(`adamw: ${name}`, tensor, weight.shape);
      }
      for (const variable of [weight, m, v]) gpu.writable(variable);
      const decay = 1 - learningRate * weightDecay;
      const numbers = [weight.size, beta1, 1 - beta1, beta2, 1 - beta2, decay, learningRate, eps];
      const options = { groups: elementGrid(weight.size), numbers, passing: true };
      gpu.run(adamw, [weight, grad, m, v, decision], options);
    },
    reached: () => gpu.finished(),
  };
}
