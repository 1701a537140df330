/** Models of the shapes that the benches measure, on the active tfjs backend, and small helpers of theirs. */
import * as tf from "@tensorflow/tfjs";
import type { WeightSource } from "../../src/engine/infer/teamModel.ts";
import type { KernelChoice } from "../../src/engine/kernels/index.ts";
import type { KernelVariant } from "../../src/engine/kernels/wasm/variants.ts";
import { expectedTensors } from "../../src/ops/architectures/llama.ts";
import type { LlamaConfig } from "../../src/ops/architectures/llamaConfig.ts";

/** D hidden, L layers, F intermediate, V vocabulary, T tokens of a sequence, B sequences of a batch. */
export interface Shape {
  readonly D: number;
  readonly L: number;
  readonly heads: number;
  readonly F: number;
  readonly V: number;
  readonly T: number;
  readonly B: number;
}

export const shapes: Readonly<Record<string, Shape>> = {
  xs: { D: 64, L: 2, heads: 4, F: 176, V: 512, T: 64, B: 4 },
  s: { D: 256, L: 6, heads: 8, F: 688, V: 4096, T: 256, B: 8 },
  m: { D: 512, L: 8, heads: 8, F: 1376, V: 4096, T: 256, B: 4 },
  "124m": { D: 768, L: 12, heads: 12, F: 2048, V: 50304, T: 1024, B: 8 },
  "1.1b": { D: 2048, L: 22, heads: 32, F: 5632, V: 32000, T: 2048, B: 2 },
};

/** Name, choice and build of the kernels that are measured; the first is the reference, plain tfjs ops on its wasm
 * backend, arranged so that none of its slow (transposed, batched) products is met where another does. */
export const benchedKernels: readonly (readonly [title: string, choice: KernelChoice, variant?: KernelVariant])[] = [
  ["tfjs ops", "reference"],
  ...(["simd128", "relaxed", "relaxed256"] as const).map(
    (variant) => [`wasm-${variant}`, "wasm-simd", variant] as const,
  ),
  ["native", "native"],
  ["native bf16", "native-bf16"],
];

export function configOf({ D, L, heads, F, V }: Shape): LlamaConfig {
  return {
    vocabSize: V,
    hiddenSize: D,
    intermediateSize: F,
    numHiddenLayers: L,
    numAttentionHeads: heads,
    numKeyValueHeads: heads,
    headDim: D / heads,
    maxPositionEmbeddings: 2048,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    ropeScaling: null,
    tieWordEmbeddings: false,
    attentionBias: false,
    mlpBias: false,
    initializerRange: 0.02,
    bosTokenId: null,
    eosTokenIds: [],
  };
}

/** Weights of that shape, repeatable. */
export function randomWeights(config: LlamaConfig): Map<string, tf.Variable> {
  return new Map(
    expectedTensors(config).map(({ name, shape }, i) => {
      const values = (): tf.Tensor =>
        shape.length === 1 ? tf.ones([...shape]) : tf.randomNormal([...shape], 0, 0.02, "float32", i + 1);
      return [name, tf.tidy(() => tf.variable(values()))] as const;
    }),
  );
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}

/** Command-line options `--name value`. */
export function optionsOf(names: Readonly<Record<string, string>>): Record<string, string> {
  const given = process.argv.slice(2);
  const found = { ...names };
  for (let i = 0; i < given.length; i += 2) {
    const name = given[i]!.replace(/^--/, "");
    if (!Object.hasOwn(names, name) || given[i + 1] === undefined) {
      throw new Error(
        `unknown option ${given[i]}; there are ${Object.entries(names)
          .map(([n, v]) => `--${n} ${v}`)
          .join(", ")}`,
      );
    }
    found[name] = given[i + 1]!;
  }
  return found as Record<string, string>;
}

/** As the paper trains, at a rate that leaves a random model where it is. */
export const adamwSettings = {
  type: "adamw",
  learningRate: 1e-4,
  betas: [0.9, 0.95],
  eps: 1e-8,
  weightDecay: 0.1,
  decay: "matrices",
  clip: 1,
} as const;

/** The weights in float32, or cut to the bits of bfloat16: for speed it does not matter how they are rounded. */
export async function* weightSource(weights: ReadonlyMap<string, tf.Tensor>, inHalf: boolean): WeightSource {
  for (const [name, tensor] of weights) {
    const values = (await tensor.data()) as Float32Array;
    if (!inHalf || tensor.rank !== 2) yield [name, values];
    else
      yield [name, Uint16Array.from(new Uint32Array(values.buffer, values.byteOffset, values.length), (b) => b >>> 16)];
  }
}
