/**
 * Every kernel once more, in float64 and plain loops straight from its definition: what the contract suite
 * holds implementations against. Forward only; gradients come from finite differences of these.
 */

export type Values = Float64Array;

/** y[R,O] = x[R,I] w[O,I]^T + b. */
export function linearTruth(
  x: Values,
  w: Values,
  b: Values | null,
  rows: number,
  inputs: number,
  outputs: number,
): Values {
  const y = new Float64Array(rows * outputs);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outputs; o++) {
      let sum = b ? b[o]! : 0;
      for (let i = 0; i < inputs; i++) sum += x[r * inputs + i]! * w[o * inputs + i]!;
      y[r * outputs + o] = sum;
    }
  }
  return y;
}

export function embeddingTruth(ids: readonly number[], table: Values, width: number): Values {
  const y = new Float64Array(ids.length * width);
  ids.forEach((id, r) => y.set(table.subarray(id * width, (id + 1) * width), r * width));
  return y;
}

export function rmsNormTruth(x: Values, gain: Values, eps: number): Values {
  const width = gain.length;
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += x[start + i]! ** 2;
    const scale = 1 / Math.sqrt(squares / width + eps);
    for (let i = 0; i < width; i++) y[start + i] = x[start + i]! * scale * gain[i]!;
  }
  return y;
}

/** Shape of x: [B, T, N, H]; cos and sin [T, H/2]. */
export function ropeTruth(x: Values, shape: readonly number[], cos: Values, sin: Values): Values {
  const [batch, length, heads, headDim] = shape as [number, number, number, number];
  const half = headDim / 2;
  const y = new Float64Array(x.length);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < length; t++) {
      for (let n = 0; n < heads; n++) {
        const at = ((b * length + t) * heads + n) * headDim;
        for (let i = 0; i < half; i++) {
          const [c, s] = [cos[t * half + i]!, sin[t * half + i]!];
          y[at + i] = x[at + i]! * c - x[at + half + i]! * s;
          y[at + half + i] = x[at + half + i]! * c + x[at + i]! * s;
        }
      }
    }
  }
  return y;
}

export interface AttentionSizes {
  batch: number;
  queries: number;
  keys: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  offset: number;
}

export function attentionTruth(q: Values, k: Values, v: Values, sizes: AttentionSizes): Values {
  const { batch, queries, keys, heads, kvHeads, headDim, offset } = sizes;
  const y = new Float64Array(q.length);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < queries; t++) {
      for (let n = 0; n < heads; n++) {
        const kv = Math.floor(n / (heads / kvHeads));
        const from = ((b * queries + t) * heads + n) * headDim;
        const scores: number[] = [];
        for (let s = 0; s <= offset + t; s++) {
          let dot = 0;
          for (let i = 0; i < headDim; i++) dot += q[from + i]! * k[((b * keys + s) * kvHeads + kv) * headDim + i]!;
          scores.push(dot / Math.sqrt(headDim));
        }
        const weights = softmax(scores);
        weights.forEach((weight, s) => {
          for (let i = 0; i < headDim; i++) y[from + i]! += weight * v[((b * keys + s) * kvHeads + kv) * headDim + i]!;
        });
      }
    }
  }
  return y;
}

function softmax(scores: readonly number[]): number[] {
  const max = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - max));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

export function swigluTruth(gate: Values, up: Values): Values {
  return gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!);
}

export function crossEntropyTruth(x: Values, head: Values, targets: readonly number[], width: number): Values {
  const vocab = head.length / width;
  let sum = 0;
  targets.forEach((target, r) => {
    if (target < 0) return;
    const row = linearTruth(x.subarray(r * width, (r + 1) * width), head, null, 1, width, vocab);
    sum -= Math.log(softmax([...row])[target]!);
  });
  return Float64Array.of(sum);
}

export interface AdamwTruth {
  w: Values;
  m: Values;
  v: Values;
}

/** One update as Loshchilov & Hutter write it, with torch's place for eps. */
export function adamwTruth(
  state: AdamwTruth,
  grad: Values,
  options: {
    learningRate: number;
    beta1: number;
    beta2: number;
    eps: number;
    weightDecay: number;
    gradScale: number;
    step: number;
  },
): AdamwTruth {
  const { learningRate, beta1, beta2, eps, weightDecay, gradScale, step } = options;
  const m = state.m.map((old, i) => beta1 * old + (1 - beta1) * grad[i]! * gradScale);
  const v = state.v.map((old, i) => beta2 * old + (1 - beta2) * (grad[i]! * gradScale) ** 2);
  const w = state.w.map((old, i) => {
    const mean = m[i]! / (1 - beta1 ** step);
    const deviation = Math.sqrt(v[i]! / (1 - beta2 ** step));
    return old - learningRate * weightDecay * old - (learningRate * mean) / (deviation + eps);
  });
  return { w, m, v };
}
