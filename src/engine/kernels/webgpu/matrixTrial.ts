/**
 * Whether a device's matrices of subgroups are to be trusted, and whether they pay: products of awkward shapes beside
 * those of the plain programs, which round the same operands to half precision and add up in float32; rows alone and
 * in company, bit for bit; operands that no half holds. Then both are timed.
 *
 * It wants a device of its own, opened for it: what goes wrong on that (a program that does not compile, a device that
 * is lost) is an answer here, and an end to work that is under way elsewhere. No tfjs.
 */
import type { MatrixOps } from "./matrixOps.ts";
import { numbersOf, type Ending, type Form, type ProductShape } from "./product.ts";
import { planProducts, type PlanProduct } from "./products.ts";
import { TrialGpu } from "./trialGpu.ts";

/** What came of it. */
export interface MatrixTrial {
  readonly usable: boolean;
  /** Why not; null where they are. */
  readonly problem: string | null;
  /** Time of three products, one of each form, of squares of `size`, ms; null where nothing was timed. */
  readonly times: { readonly size: number; readonly matricesMs: number; readonly plainMs: number } | null;
}

export interface TrialShape {
  readonly form: Form;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly ending: Ending;
}

const bare: Ending = { bias: false, accumulate: false };
const biased: Ending = { bias: true, accumulate: false };
const added: Ending = { bias: false, accumulate: true };

/** No multiple of anything, and multiples of 4; more than one tile has. Of nt there is one of many tiles. */
export const trialShapes: readonly TrialShape[] = [
  ...(["nt", "nn", "tn"] as const).flatMap((form) => [
    { form, m: 67, n: 37, k: 83, ending: form === "nt" ? biased : added },
    { form, m: 132, n: 68, k: 100, ending: bare },
  ]),
  { form: "nt", m: 2_052, n: 1_028, k: 68, ending: bare },
];

/** A trial that has not ended by then is given up. */
const limitMs = 60_000;
/** Sizes that are timed: the next where neither took long. */
const timedSizes = [256, 1024];
const longMs = 50;
const timedRounds = 5;
/** What float32 sums of products of halves at most 1 may differ by, times k; sums in half precision are far off. */
const tolerance = 2 ** -20;
const tooLarge = 7e4;

export interface TrialOptions {
  readonly measure: boolean;
  readonly shapes?: readonly TrialShape[];
}

/** Never throws. The device is no good for anything else afterwards. */
export async function tryMatrices(device: GPUDevice, ops: MatrixOps, options: TrialOptions): Promise<MatrixTrial> {
  const gpu = new TrialGpu(device);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the check has not ended in ${limitMs / 1000} s`)), limitMs);
  });
  try {
    const { limits } = device;
    const matrices = planProducts({ family: "matrices", f16: true, matrices: ops, limits });
    // What a GPU would have instead; on a processor in disguise it computes the same, slowly.
    const plain = planProducts({ family: "tiles", f16: true, limits });
    const times = await Promise.race([tried(gpu, matrices, plain, options), late, gpu.failed]);
    return { usable: true, problem: null, times };
  } catch (error) {
    return { usable: false, problem: error instanceof Error ? error.message : String(error), times: null };
  } finally {
    clearTimeout(timer);
  }
}

async function tried(
  gpu: TrialGpu,
  matrices: PlanProduct,
  plain: PlanProduct,
  { measure, shapes = trialShapes }: TrialOptions,
): Promise<MatrixTrial["times"]> {
  for (const shape of shapes) await checkShape(gpu, matrices, plain, shape);
  return measure ? timed(gpu, matrices, plain) : null;
}

/** Numbers from -0.25 to 1: sums grow, so that too few bits of them are seen. */
function numbers(count: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => ((i * 7_919 + seed * 10_473) % 1_009) / 807 - 0.25);
}

/** @throws an Error that names the shape and what is wrong */
async function checkShape(gpu: TrialGpu, matrices: PlanProduct, plain: PlanProduct, trial: TrialShape): Promise<void> {
  const { form, m, n, k, ending } = trial;
  const operands = { a: numbers(m * k, 1), b: numbers(n * k, 2), bias: numbers(n, 3), y: numbers(m * n, 4) };
  const compute = (plan: PlanProduct, shape: ProductShape, a = operands.a): Promise<Float32Array> =>
    product(gpu, plan, shape, ending, { ...operands, a, y: operands.y.subarray(0, shape.m * n) });
  const what = `${form} ${m} x ${n} x ${k}`;
  const whole: ProductShape = { form, m, n, k };
  const [got, wanted] = [await compute(matrices, whole), await compute(plain, whole)];
  const off = got.findIndex((value, i) => !(Math.abs(value - wanted[i]!) <= k * tolerance));
  if (off >= 0) throw new Error(`product ${what}: element ${off} is ${got[off]}, ${wanted[off]} is wanted`);
  if (form !== "nt" || ending.accumulate) return;
  for (const [first, rows] of [
    [m - 5, 1],
    [20, 3],
    [3, m - 8],
  ] as const) {
    const some = await compute(matrices, { form, m: rows, n, k, aStart: first * k });
    const other = some.findIndex((value, i) => !Object.is(value, got[first * n + i]));
    if (other >= 0) throw new Error(`product ${what}: rows from ${first} have other bits alone than in company`);
  }
  const spoiled = operands.a.slice();
  spoiled[4 * k + 1] = tooLarge;
  const row = (await compute(matrices, whole, spoiled)).subarray(4 * n, 5 * n);
  if (row.some(Number.isFinite)) throw new Error(`product ${what}: ${tooLarge}, which no half holds, came to a number`);
}

interface Operands {
  readonly a: Float32Array<ArrayBuffer>;
  readonly b: Float32Array<ArrayBuffer>;
  readonly bias: Float32Array<ArrayBuffer>;
  readonly y: Float32Array<ArrayBuffer>;
}

async function product(
  gpu: TrialGpu,
  plan: PlanProduct,
  shape: ProductShape,
  ending: Ending,
  { a, b, bias, y }: Operands,
): Promise<Float32Array> {
  const { program, groups } = plan(shape, ending);
  const buffers = (ending.bias ? [a, b, bias, y] : [a, b, y]).map((values) => gpu.buffer(values));
  await gpu.run(program, buffers, { groups, numbers: numbersOf(shape), times: 1 });
  const result = await gpu.read(buffers.at(-1)!);
  buffers.forEach((buffer) => buffer.destroy());
  return result;
}

async function timed(gpu: TrialGpu, matrices: PlanProduct, plain: PlanProduct): Promise<MatrixTrial["times"]> {
  let times: MatrixTrial["times"] = null;
  for (const size of timedSizes) {
    const operands = [1, 2, 3].map((seed) => gpu.buffer(numbers(size * size, seed)));
    const once = async (plan: PlanProduct): Promise<number> => {
      const start = performance.now();
      for (const form of ["nt", "nn", "tn"] as const) {
        const shape = { form, m: size, n: size, k: size };
        const { program, groups } = plan(shape, bare);
        await gpu.run(program, operands, { groups, numbers: numbersOf(shape), times: 4 });
      }
      await gpu.finished();
      return (performance.now() - start) / 4;
    };
    const best = { matrices: Infinity, plain: Infinity };
    // The first round compiles.
    for (let round = 0; round <= timedRounds; round++) {
      const taken = { matrices: await once(matrices), plain: await once(plain) };
      if (round === 0) continue;
      best.matrices = Math.min(best.matrices, taken.matrices);
      best.plain = Math.min(best.plain, taken.plain);
    }
    operands.forEach((buffer) => buffer.destroy());
    times = { size, matricesMs: best.matrices, plainMs: best.plain };
    if (Math.max(best.matrices, best.plain) > longMs) break;
  }
  return times;
}
