/**
 * The model on shared memory gives the bits of the model on tfjs with the wasm kernels: any shape, any build, weights
 * in 32 and in 16 bits, prompts and single tokens together, by one thread and by several.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { BatchDecoder, Context } from "../../../src/engine/infer/decoder.ts";
import { llamaDecoder } from "../../../src/engine/infer/loadServedModel.ts";
import { openTeamModel } from "../../../src/engine/infer/teamModel.ts";
import type { LogitRow } from "../../../src/engine/infer/logitRow.ts";
import type { TeamModel } from "../../../src/engine/infer/teamModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import type { KernelVariant } from "../../../src/engine/kernels/wasm/variants.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import type { CacheDtype } from "../../../src/ops/cacheDtype.ts";
import { disposeWeights } from "../../../src/engine/model/weights.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { decodeToF32, encodeFromF32 } from "../../../src/ops/dtype.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { tinyConfig } from "../../helpers/tinyCheckpoint.ts";

// The library chooses its kernels itself, whatever this machine was told.
delete process.env["OPENBLAS_CORETYPE"];
const missing = await missingBlas();

/** No size is a multiple of a panel; sums of more than one block; queries that share keys; biases. */
const odd: LlamaConfig = {
  ...tinyConfig,
  ...{ vocabSize: 301, hiddenSize: 270, intermediateSize: 521, numAttentionHeads: 6, numKeyValueHeads: 2 },
  ...{ headDim: 22, maxPositionEmbeddings: 400, attentionBias: true, mlpBias: true, tieWordEmbeddings: false },
};
const tied: LlamaConfig = { ...tinyConfig, maxPositionEmbeddings: 400 };
/** Heads of whole vectors, and more than four queries to a key. */
const whole: LlamaConfig = { ...tied, hiddenSize: 384, numAttentionHeads: 6, numKeyValueHeads: 1, headDim: 64 };
/** Wide enough for BLAS. */
const wide: LlamaConfig = { ...odd, vocabSize: 1100, hiddenSize: 512, intermediateSize: 1024, headDim: 32 };

/** Weights that bfloat16 holds exactly. */
function weightValues(config: LlamaConfig): Map<string, { shape: readonly number[]; values: Float32Array }> {
  return new Map(
    expectedTensors(config).map(({ name, shape }) => {
      const size = shape.reduce((product, extent) => product * extent, 1);
      const values = seededStream(3, name).fillNormal(new Float32Array(size), 0.2);
      const bits = new Uint32Array(values.buffer);
      for (let i = 0; i < size; i++) bits[i]! &= 0xffff0000;
      return [name, { shape, values }] as const;
    }),
  );
}

async function* inMemory(config: LlamaConfig, inHalf: boolean) {
  for (const [name, { shape, values }] of weightValues(config)) {
    const halves = () => Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
    yield [name, inHalf && shape.length === 2 ? halves() : values] as const;
  }
}

/** Rows of logits and their blocks. */
type Made = (Float32Array | Float64Array)[];

/** Prompts and single tokens of sequences that come, go back and go on, some with logits for all of their rows. */
async function story(decoder: BatchDecoder, mostRows: number): Promise<Made> {
  const ids = (seed: number, count: number): number[] =>
    Array.from({ length: count }, (_, i) => (seed * 131 + i * 37 + i * i) % 260);
  const contexts = Array.from({ length: 9 }, () => decoder.start(300));
  const part = (context: Context | undefined, seed: number, count: number, rows: number) => ({
    context: context!,
    ids: ids(seed, count),
    rows,
  });
  const made: Made = [];
  const step = async (parts: Parameters<BatchDecoder["step"]>[0]) => {
    for (const row of await decoder.step(parts)) made.push(row.logits.slice(), ...blocksOf(row));
  };
  await step([part(contexts[0], 1, mostRows, 1)]);
  await step([part(contexts[1], 2, 1, 1)]);
  await step([part(contexts[2], 3, 70, 0), part(contexts[0], 4, 1, 1), part(contexts[3], 5, 5, 5)]);
  for (let count = 1; count <= contexts.length; count += count < 5 ? 1 : 4) {
    await step(contexts.slice(0, count).map((context, i) => part(context, 10 * count + i, 1 + (i % 2), 1)));
  }
  contexts[2]!.truncate(40);
  await step([part(contexts[2], 7, 30, 30), part(contexts[1], 8, 3, 2)]);
  for (const context of contexts) context.close();
  return made;
}

/** The blocks as they came with the row and at another temperature. */
function blocksOf(row: LogitRow): Float64Array[] {
  const warm = row.blocks(0.7);
  return [row.blocks().maxima.slice(), row.blocks().sums.slice(), warm.maxima.slice(), warm.sums.slice()];
}

async function expected(
  config: LlamaConfig,
  variant: KernelVariant,
  mostRows: number,
  cacheDtype: CacheDtype = "F32",
): Promise<Made> {
  const { kernels: float } = await kernelsFor("wasm", "wasm-simd", variant);
  const kernels = cacheDtype === "F32" ? float : { ...float, causalAttention: roundingAttention(float) };
  const weights = new Map<string, tf.Tensor>();
  for (const [name, { shape, values }] of weightValues(config)) weights.set(name, tf.tensor(values, [...shape]));
  const made = await story(llamaDecoder(config, weights, kernels), mostRows);
  disposeWeights(weights);
  return made;
}

/** Attention with keys and values rounded to bfloat16. */
function roundingAttention({ causalAttention }: Kernels): Kernels["causalAttention"] {
  const rounded = (x: tf.Tensor4D): tf.Tensor4D =>
    tf.tensor(decodeToF32(encodeFromF32(x.dataSync() as Float32Array, "BF16"), "BF16"), x.shape);
  return (q, k, v, offset) => causalAttention(q, rounded(k), rounded(v), offset);
}

function assertSameBits(got: Readonly<Made>, wanted: Readonly<Made>): void {
  assert.equal(got.length, wanted.length);
  got.forEach((values, step) =>
    assert.ok(
      Buffer.from(values.buffer).equals(
        Buffer.from(wanted[step]!.buffer, wanted[step]!.byteOffset, wanted[step]!.byteLength),
      ),
      `step ${step}`,
    ),
  );
}

async function withModel<T>(opening: Promise<TeamModel>, use: (model: TeamModel) => Promise<T>): Promise<T> {
  const model = await opening;
  try {
    return await use(model);
  } finally {
    model.close();
  }
}

describe("the model on shared memory", () => {
  before(() => activateTfjs("wasm"));

  for (const variant of kernelVariants.filter(variantRuns)) {
    for (const [name, config] of [
      ["odd sizes", odd],
      ["tied", tied],
    ] as const) {
      test(`${variant}, ${name}: the bits of tfjs, whatever the threads and the width of the weights`, async () => {
        const wanted = await expected(config, variant, 150);
        for (const [inHalf, threads] of [
          [false, 1],
          [true, 1],
          [true, 3],
        ] as const) {
          const kernels = { variant, native: false };
          const opening = openTeamModel(config, inMemory(config, inHalf), kernels, threads, { isShared: () => true });
          await withModel(opening, async ({ decoder }) => assertSameBits(await story(decoder, 150), wanted));
        }
      });
    }
  }

  for (const [variant, native] of kernelVariants
    .filter(variantRuns)
    .flatMap((variant, index) =>
      index === 0 ? [[variant, false] as const, [variant, true] as const] : [[variant, false] as const],
    )) {
    for (const [name, config] of [
      ["odd sizes", odd],
      ["heads of 64", whole],
    ] as const) {
      test(`${variant}${native ? " and the machine's" : ""}, ${name}: a cache of bfloat16 has the bits of attention with rounded keys and values`, async () => {
        const wanted = await expected(config, variant, 150, "BF16");
        for (const threads of [1, 2]) {
          const opening = openTeamModel(config, inMemory(config, true), { variant, native }, threads, {
            cacheDtype: "BF16",
            isShared: () => true,
          });
          await withModel(opening, async ({ decoder }) => assertSameBits(await story(decoder, 150), wanted));
        }
      });
    }
  }

  for (const [name, config, most] of [
    ["odd sizes", odd, 150],
    ["tied", tied, 150],
    ["wide enough for BLAS", wide, 256],
  ] as const) {
    test(`with what the machine has, ${name}: the same bits`, { skip: missing ?? false }, async () => {
      const variant = kernelVariants.find(variantRuns)!;
      const wanted = await expected(config, variant, most);
      for (const [inHalf, threads] of [
        [false, 1],
        [true, 2],
      ] as const) {
        const kernels = { variant, native: true };
        const opening = openTeamModel(config, inMemory(config, inHalf), kernels, threads, { isShared: () => true });
        await withModel(opening, async ({ decoder }) => assertSameBits(await story(decoder, most), wanted));
      }
    });
  }

  test("the same bits where some steps are shared by the threads and others are not", async () => {
    const variant = kernelVariants.find(variantRuns)!;
    const wanted = await expected(odd, variant, 150);
    let steps = 0;
    const now = (): boolean => steps++ % 3 !== 1;
    const opening = openTeamModel(odd, inMemory(odd, true), { variant, native: false }, 3, { isShared: now });
    await withModel(opening, async ({ decoder }) => assertSameBits(await story(decoder, 150), wanted));
    assert.ok(steps > 6);
  });

  test("weights in 16 bits take half the memory, and caches give theirs back", async () => {
    const variant = kernelVariants.find(variantRuns)!;
    const sizeOf = (inHalf: boolean) =>
      withModel(
        openTeamModel(wide, inMemory(wide, inHalf), { variant, native: false }, 1),
        async (model) => model.memoryBytes,
      );
    const [half, whole] = [await sizeOf(true), await sizeOf(false)];
    assert.ok(half < 0.52 * whole, `${half} of ${whole} bytes`);
  });
});
