/**
 * Products by matrices of subgroups. Their operations need hardware, so two things are held apart: everything around
 * the operations is computed here with plain ones in their place, to the bits of the plain products; and the programs
 * with the real ones are compiled and validated by Dawn, on its adapter that computes nothing. Where an adapter has the
 * operations, its own are tried as a training would try them.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { create, globals } from "webgpu";
import { decided, decidedEarly } from "../../../src/engine/backends/webgpuMatrices.ts";
import { defaultWebgpuOptions, matrixConfigsOf, openAdapter } from "../../../src/engine/backends/webgpuDevice.ts";
import { chooseUnit, deviceMatrices, subgroupMatrices } from "../../../src/engine/kernels/webgpu/matrixOps.ts";
import type { MatrixOps } from "../../../src/engine/kernels/webgpu/matrixOps.ts";
import { matrixProgram, tileFits } from "../../../src/engine/kernels/webgpu/matrixProduct.ts";
import { tryMatrices, type TrialShape } from "../../../src/engine/kernels/webgpu/matrixTrial.ts";
import { numbersOf, type Ending, type ProductShape } from "../../../src/engine/kernels/webgpu/product.ts";
import { planProducts } from "../../../src/engine/kernels/webgpu/products.ts";
import type { Program } from "../../../src/engine/kernels/webgpu/program.ts";
import { TrialGpu } from "../../../src/engine/kernels/webgpu/trialGpu.ts";
import { missingHalf } from "../../helpers/gpu.ts";
import { sample } from "./kernelContract.ts";
import { plainMatrices } from "./plainMatrices.ts";

const missing = (await missingHalf()) ?? false;

async function openedDevice(): Promise<GPUDevice> {
  return (await (await openAdapter(defaultWebgpuOptions)).open()).device;
}

describe("with plain operations in place of the hardware's", { skip: missing }, () => {
  let device: GPUDevice;
  before(async () => {
    device = await openedDevice();
  });

  /** y of a product by both, the tile given. */
  async function both(shape: ProductShape, ending: Ending, size: "small" | "large"): Promise<Float32Array[]> {
    const gpu = new TrialGpu(device);
    const ops = plainMatrices();
    const { form, m, n, k } = shape;
    const tile = ops.tiles[size];
    const numbers = numbersOf(shape);
    const vectors = numbers.slice(3, 7).every((value) => value % 4 === 0);
    const plain = planProducts({ family: "tiles", f16: true, limits: device.limits })(shape, ending);
    const groups = [Math.ceil(n / tile.columns), Math.ceil(m / tile.rows)] as const;
    const ours = { program: matrixProgram({ form, tile, ending, vectors, ops }), groups };
    const values = (count: number, seed: number) => Float32Array.from(sample(count, seed));
    const starts = (shape.aStart ?? 0) + (shape.bStart ?? 0);
    const operands = [values(m * k + starts, 1), values(n * k + starts, 2), ...(ending.bias ? [values(n, 3)] : [])];
    const results: Float32Array[] = [];
    for (const { program, groups: grid } of [ours, plain]) {
      const buffers = [...operands, values(m * n + (shape.yStart ?? 0), 4)].map((data) => gpu.buffer(data));
      await Promise.race([gpu.run(program, buffers, { groups: grid, numbers, times: 1 }), gpu.failed]);
      results.push(await gpu.read(buffers.at(-1)!));
    }
    return results;
  }

  for (const [shape, ending, size] of [
    [{ form: "nt", m: 37, n: 19, k: 83 }, { bias: true, accumulate: false }, "small"],
    [{ form: "nt", m: 36, n: 68, k: 40, aStart: 8, yStart: 5 }, { bias: false, accumulate: false }, "large"],
    [{ form: "nn", m: 21, n: 36, k: 40 }, { bias: false, accumulate: true }, "small"],
    [{ form: "tn", m: 19, n: 35, k: 50, bStart: 3 }, { bias: false, accumulate: true }, "small"],
  ] as const) {
    test(`${JSON.stringify({ ...shape, ...ending })} has the bits of the plain product`, async () => {
      const [got, wanted] = await both(shape, ending, size);
      assert.deepEqual(got, wanted);
    });
  }

  const shapes: TrialShape[] = [{ form: "nt", m: 37, n: 20, k: 36, ending: { bias: false, accumulate: false } }];

  test("the check before use passes them", async () => {
    const passed = await tryMatrices(device, plainMatrices(), { measure: false, shapes });
    assert.deepEqual(passed, { usable: true, problem: null, times: null });
  });

  for (const [what, lies, problem] of [
    [
      "that add up in half precision",
      { step: "bitcast<f32>(bitcast<u32>(fma(f32(left), f32(right), value)) & 0xffffe000u)" },
      /^product nt.*is wanted$/,
    ],
    ["whose bits depend on the place in a matrix", { stored: "value * (1.0 + f32(i) * 0x1p-22)" }, /other bits alone/],
    ["that do not compile", { declarations: "fn multiplyUnit() {}" }, /^program product nt.* does not compile: /],
  ] as const) {
    test(`it refuses operations ${what}`, async () => {
      const trial = await tryMatrices(device, plainMatrices(lies), { measure: false, shapes });
      assert.deepEqual([trial.usable, trial.times], [false, null]);
      assert.match(trial.problem!, problem);
    });
  }
});

test("every program with the hardware's operations compiles, whatever the unit and the width of subgroups", async () => {
  Object.assign(globalThis, globals);
  const gpu = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
  const adapter = await gpu.requestAdapter();
  const requiredFeatures = [
    "chromium-experimental-subgroup-matrix",
    "shader-f16",
    "subgroups",
    "subgroup-size-control",
  ];
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX } =
    adapter!.limits;
  const device = await adapter!.requestDevice({
    requiredFeatures: requiredFeatures as GPUFeatureName[],
    requiredLimits: { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX },
  });
  const problems: string[] = [];
  let compiled = 0;
  const compile = async ({ name, code }: Program, fits: boolean): Promise<void> => {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    if (fits) device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    const error = await device.popErrorScope();
    problems.push(
      ...messages.map(({ message }) => `${name}: ${message}`),
      ...(error ? [`${name}: ${error.message}`] : []),
    );
    compiled++;
  };
  const units = [[16, 16, 16], [8, 16, 16], [16, 8, 8], [8, 8, 8]] as const; // prettier-ignore
  for (const [m, n, k] of units) {
    for (const pinned of [false, true]) {
      const ops = subgroupMatrices({ m, n, k }, 32, pinned);
      for (const tile of Object.values(ops.tiles)) {
        for (const form of ["nt", "nn", "tn"] as const) {
          for (const vectors of [false, true]) {
            const ending = { bias: form === "nt", accumulate: vectors };
            await compile(matrixProgram({ form, tile, ending, vectors, ops }), tileFits(tile, ops, device.limits));
          }
        }
      }
    }
  }
  assert.equal(compiled, units.length * 2 * 2 * 3 * 2);
  assert.deepEqual(problems, []);
  const { tiles, ...rest } = plainMatrices();
  const wrong = { ...rest, tiles, zero: () => "nonsense;" };
  const ending = { bias: false, accumulate: false };
  await compile(matrixProgram({ form: "nt", vectors: true, ending, tile: tiles.small, ops: wrong }), true);
  assert.match(problems.join(), /expected '=' for assignment/);
  device.destroy();
  assert.ok(gpu, "kept until here: devices do not outlive what they were opened through");
});

test("where an adapter has such matrices, its own pass the check", { skip: missing }, async (t) => {
  const { adapter, open } = await openAdapter(defaultWebgpuOptions);
  let ops: MatrixOps;
  try {
    ops = deviceMatrices({ features: adapter.features, adapterInfo: adapter.info }, matrixConfigsOf(adapter));
  } catch (error) {
    return t.skip((error as Error).message);
  }
  const ending = { bias: false, accumulate: false };
  const shapes = (["nt", "nn", "tn"] as const).map((form) => ({ form, m: 68, n: 36, k: 100, ending }));
  const trial = await tryMatrices((await open()).device, ops, { measure: false, shapes });
  assert.deepEqual(trial, { usable: true, problem: null, times: null });
});

describe("choosing", () => {
  const config = (componentType: string, resultComponentType: string, M: number, N: number, K: number) => {
    return { componentType, resultComponentType, M, N, K };
  };

  test("the largest unit of halves with float32 sums is taken, the first of equals", () => {
    const nvidia = [
      config("f16", "f16", 16, 16, 32),
      config("f16", "f32", 16, 8, 16),
      config("f16", "f32", 16, 16, 16),
    ];
    assert.deepEqual(chooseUnit(nvidia), { m: 16, n: 16, k: 16 });
    assert.deepEqual(chooseUnit([config("f16", "f32", 8, 16, 16), config("f16", "f32", 16, 8, 16)]), {
      m: 8,
      n: 16,
      k: 16,
    });
    assert.equal(chooseUnit([config("f16", "f16", 8, 8, 8), config("i8", "i32", 8, 8, 32)]), null);
    assert.equal(chooseUnit([config("f16", "f32", 12, 16, 16)]), null);
  });

  test("a device without a feature is refused by its name; of several widths one must be choosable", () => {
    const info = (least: number, most: number) => ({ subgroupMinSize: least, subgroupMaxSize: most }) as GPUAdapterInfo;
    const features = new Set([
      "chromium-experimental-subgroup-matrix",
      "shader-f16",
      "subgroups",
    ]) as GPUSupportedFeatures;
    const configs = [config("f16", "f32", 16, 16, 16)];
    assert.equal(deviceMatrices({ features, adapterInfo: info(32, 32) }, configs).attributes, "");
    assert.throws(() => deviceMatrices({ features, adapterInfo: info(16, 32) }, configs), /16 to 32 wide/);
    const pinned = new Set([...features, "subgroup-size-control"]) as GPUSupportedFeatures;
    assert.equal(
      deviceMatrices({ features: pinned, adapterInfo: info(16, 32) }, configs).attributes,
      "@subgroup_size(32)",
    );
    const without = new Set(["shader-f16", "subgroups"]) as GPUSupportedFeatures;
    assert.throws(() => deviceMatrices({ features: without, adapterInfo: info(32, 32) }, configs), {
      code: "backend_unavailable",
      message: "the device has no chromium-experimental-subgroup-matrix",
    });
  });

  test("tiles keep to a device's workgroup memory and invocations", () => {
    const ops = subgroupMatrices({ m: 16, n: 16, k: 16 }, 32, false);
    const limits = (bytes: number, invocations: number) =>
      ({
        maxComputeWorkgroupStorageSize: bytes,
        maxComputeInvocationsPerWorkgroup: invocations,
        maxComputeWorkgroupSizeX: invocations,
      }) as GPUSupportedLimits;
    assert.deepEqual([ops.tiles.small.rows, ops.tiles.large.rows], [64, 128]);
    assert.ok(tileFits(ops.tiles.small, ops, limits(16_384, 256)));
    assert.ok(!tileFits(ops.tiles.large, ops, limits(16_384, 256)));
    assert.ok(tileFits(ops.tiles.large, ops, limits(32_768, 256)));
    assert.ok(!tileFits(ops.tiles.large, { ...ops, width: 64 }, limits(65_536, 256)));
  });

  test("measured times decide, with a margin; a failed check or never does not need them; a run goes on as it began", () => {
    const trial = (matricesMs: number, plainMs: number) => ({
      ...{ usable: true, problem: null, times: { size: 1024, matricesMs, plainMs } },
    });
    const faster = decided(trial(1, 3), "16x16x16");
    assert.equal(faster.kernels, "webgpu-matrices-f16");
    assert.match(faster.reason, /1024 squared took 1\.00 ms by matrices of subgroups \(16x16x16\), 3\.00 ms without/);
    assert.equal(decided(trial(1, 1.05), "16x16x16").kernels, "webgpu-f16");
    const failed = decided({ usable: false, problem: "the device was lost", times: null }, "16x16x16");
    assert.equal(failed.kernels, "webgpu-f16");
    assert.match(failed.reason, /not to be trusted here: the device was lost/);
    const options = { ...defaultWebgpuOptions, matrices: "always" } as const;
    assert.equal(decidedEarly(options, null), null);
    assert.equal(decidedEarly(options, "webgpu-matrices-f16"), null);
    assert.equal(decidedEarly(options, "webgpu-tiles-f16")?.kernels, "webgpu-f16");
    assert.equal(decidedEarly({ ...options, matrices: "never" }, "webgpu-matrices-f16")?.kernels, "webgpu-f16");
  });
});
