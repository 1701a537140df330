/**
 * What a growth writes: the compiled row kernel, the loops and the whole-tensor recipes give the same bytes, and so do
 * one thread and several; what fails or is stopped leaves no file; memory is blocks of rows, not tensors.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { blobLocation } from "../../../src/engine/checkpoint/blobs.ts";
import { TensorReader } from "../../../src/engine/checkpoint/tensorReader.ts";
import { buildTensor, buildWhole } from "../../../src/engine/growth/buildTensor.ts";
import { growTensors, type BuiltTensors } from "../../../src/engine/growth/growTensors.ts";
import { compileRowKernel, createRowKernel } from "../../../src/engine/growth/rowKernel.ts";
import { tensorOrders, tensorSets } from "../../../src/engine/growth/work.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import { encodeFromF32 } from "../../../src/ops/dtype.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { planGrowth, type GrowthPlanRequest } from "../../../src/ops/growth/index.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import type { Dtype } from "../../../src/ops/tensor.ts";
import { compileRowKernel as rebuildRowKernel, missingCompiler } from "../../../scripts/buildKernels.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";
import { temporaryFolder } from "../store/fixtures.ts";
import { writeTensors } from "../../../src/engine/checkpoint/writer.ts";

/** The tiny model in some element type, with numbers that are hard to round. */
async function sourceOf(dtype: Dtype, folder: string, wide = false): Promise<ResolvedCheckpoint> {
  const config = wide ? { hiddenSize: 256, intermediateSize: 640 } : { numAttentionHeads: 4, numKeyValueHeads: 2 };
  const { checkpoint, remove } = tinyCheckpoint({ config });
  remove();
  const toWrite = checkpoint.manifest.tensors.map(({ name, shape }) => {
    const count = shape.reduce((product, extent) => product * extent, 1);
    const values = seededStream(7, name).fillNormal(new Float32Array(count), 1);
    values.set([0, -0, 1e-40, -3e-39, 3e38, -3.3e38, 65504, 6e-8], 1);
    return { info: { name, dtype, shape }, data: () => values };
  });
  const { tensors, blob } = await writeTensors(folder, toWrite);
  return {
    id: "source",
    manifest: { ...checkpoint.manifest, tensors },
    blobs: { [blob.digest]: blobLocation(folder, blob) },
  };
}

const width = (params: GrowthPlanRequest["params"], operator = "direct"): GrowthPlanRequest => {
  return { operator, axis: "width", seed: 5, params: params ?? {} };
};
const odd = { hidden_size: 42, intermediate_size: 83, num_attention_heads: 6, num_key_value_heads: 3 };
const twice = { hidden_size: 32, intermediate_size: 96, num_attention_heads: 8, num_key_value_heads: 4 };
const thrice = { hidden_size: 48, intermediate_size: 97 };

const requests: Readonly<Record<string, GrowthPlanRequest>> = {
  "elementwise, doubled": width({ target: twice }),
  "elementwise, odd sizes": width({ target: odd }),
  "elementwise, three and more copies": width({ target: thrice }),
  "scalar, odd sizes": width({ target: odd, split: "scalar" }),
  "even, odd sizes": width({ target: odd, split: "even" }),
  tiled: width({ target: twice, split: "tile" }),
  lemon: width({ target: odd, split: "lemon" }),
  "a longer head": width({ target: { head_dim: 16 } }),
  "the paper's rule": width({ target: odd, fidelity: "paper" }),
  zero: width({ target: twice }, "zero"),
  random: width({ target: twice }, "random"),
  "with noise": width({ target: odd, noise: 0.2 }),
  "depth with noise": { operator: "direct", axis: "depth", factor: 2, params: { noise: 0.5 } },
  "wide, then deep": {
    params: {
      steps: [
        { operator: "direct", axis: "width", params: { target: odd } },
        { operator: "direct", axis: "depth", factor: 2 },
      ],
    },
  },
  "deep, then wide": {
    params: {
      steps: [
        { operator: "zero", axis: "depth", factor: 2 },
        { operator: "direct", axis: "width", params: { target: odd } },
      ],
    },
  },
};

for (const dtype of ["BF16", "F32", "F16"] as const) {
  test(`${dtype}: kernel, loops and whole tensors give the same bytes, whatever is grown`, async (t) => {
    const folder = temporaryFolder();
    t.after(() => rmSync(folder, { recursive: true }));
    const source = await sourceOf(dtype, folder);
    const kernel = createRowKernel(compileRowKernel());
    let byRows = 0;
    for (const [title, request] of Object.entries(requests)) {
      const plan = planGrowth(source.manifest, request);
      for (const order of tensorOrders(tensorSets(plan, source, false), source)) {
        const whole = encodeFromF32(await buildWhole(order), order.info.dtype);
        if (order.recipe.rows !== undefined) byRows += 1;
        for (const way of [kernel, null]) {
          const path = join(folder, "one");
          const built = await buildTensor(order, path, { kernel: way, onBytes: () => undefined });
          const bytes = readFileSync(path);
          rmSync(path);
          assert.ok(bytes.equals(whole), `${title}: ${order.info.name}, ${way === null ? "loops" : "kernel"}`);
          assert.equal(built.sha256, createHash("sha256").update(whole).digest("hex"));
        }
      }
    }
    assert.ok(byRows > 100, "most tensors go by rows");
  });
}

test("infinities and NaNs of a source go through the kernel as through the loops", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const source = await sourceOf("BF16", folder);
  const name = "model.layers.0.mlp.gate_proj.weight";
  const info = source.manifest.tensors.find((tensor) => tensor.name === name)!;
  const values = new Float32Array(info.sizeBytes / 2).fill(0.3);
  values.set([Infinity, -Infinity, NaN, 1], 2);
  const { tensors, blob } = await writeTensors(folder, [{ info, data: () => values }]);
  const plan = planGrowth(source.manifest, width({ target: twice }));
  const found = tensorOrders(tensorSets(plan, source, false), source).find((order) => order.info.name === name)!;
  const order = {
    ...found,
    sources: new Map([[name, tensors[0]!]]),
    blobs: { [blob.digest]: blobLocation(folder, blob) },
  };
  const path = join(folder, "one");
  await buildTensor(order, path, { kernel: createRowKernel(compileRowKernel()), onBytes: () => undefined });
  const got = new Uint16Array(new Uint8Array(readFileSync(path)).buffer);
  const want = new Uint16Array(encodeFromF32(await buildWhole(order), "BF16").buffer);
  const isNan = (bits: number): boolean => (bits & 0x7fff) > 0x7f80;
  got.forEach((bits, at) => {
    assert.ok(bits === want[at] || (isNan(bits) && isNan(want[at]!)), `value ${at}: ${bits}, ${want[at]} wanted`);
  });
});

test("rows.wasm: compiling the source gives the committed bytes", { skip: missingCompiler() ?? false }, async () => {
  const committed = readFileSync(new URL("../../../src/engine/growth/rows.wasm", import.meta.url));
  assert.ok(rebuildRowKernel().equals(committed), "run node scripts/buildKernels.ts");
});

const grown = width({ target: { hidden_size: 512, intermediate_size: 1280 } });

/** Digests by tensor. */
const digests = ({ tensors }: BuiltTensors): Record<string, string> =>
  Object.fromEntries(tensors.map(({ name, sha256 }) => [name, sha256]));

test("one thread and three give the same digests, as blobs that hold what they say, and progress to the end", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const source = await sourceOf("BF16", folder, true);
  const work = { source, request: grown, blobDir: join(folder, "blobs") };
  let last: readonly [number, number] = [0, 1];
  const options = { onProgress: (done: number, all: number): void => void (last = [done, all]) };
  const one = await growTensors(work, options);
  assert.equal(last[0], last[1]);
  const three = await growTensors(work, { ...options, threads: 3, threadedBytes: 0 });
  assert.equal(last[0], last[1]);
  assert.deepEqual(digests(three), digests(one));
  assert.ok(three.blobs.length > 4, "a tensor of some size has a blob of its own");
  const reader = new TensorReader(
    Object.fromEntries(three.blobs.map((blob) => [blob.digest, blobLocation(work.blobDir, blob)])),
  );
  for (const tensor of three.tensors) {
    assert.equal(
      createHash("sha256")
        .update(await reader.readBytes(tensor))
        .digest("hex"),
      tensor.sha256,
    );
  }
  await reader.close();
  assert.deepEqual(readdirSync(join(work.blobDir, "tmp")), []);
});

/** SHA-256 over names and digests of the growth below; recorded on x64, and to be the same wherever this runs. */
const recorded = "5ba7cc4c4e7f5c9ddf58859f4024b8f7ad9e7a0b920467691d89a801c87d6faf";

test("the digests of a growth are those of every machine", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const source = await sourceOf("BF16", folder, true);
  const { tensors } = await growTensors({ source, request: grown, blobDir: folder }, {});
  const all = tensors.map(({ name, sha256 }) => `${name} ${sha256}\n`).join("");
  assert.equal(createHash("sha256").update(all).digest("hex"), recorded);
});

for (const threads of [1, 3]) {
  test(`${threads} threads: a source that ends early, or a stop, leaves no file behind`, async (t) => {
    const folder = temporaryFolder();
    t.after(() => rmSync(folder, { recursive: true }));
    const source = await sourceOf("BF16", folder, true);
    const blobDir = join(folder, "blobs");
    mkdirSync(blobDir);
    const files = (): string[] =>
      readdirSync(blobDir, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => entry.name);
    const options = { threads, threadedBytes: 0 };
    const stop = new AbortController();
    const stopped = growTensors(
      { source, request: grown, blobDir },
      { ...options, signal: stop.signal, onProgress: () => stop.abort(new CodedError("cancelled", "stopped")) },
    );
    await assert.rejects(stopped, (error) => error instanceof CodedError && error.code === "cancelled");
    assert.deepEqual(files(), []);
    const location = Object.values(source.blobs)[0]!;
    truncateSync(location.path, location.sizeBytes - 2);
    const broken = growTensors({ source, request: grown, blobDir }, options);
    await assert.rejects(broken, (error) => error instanceof CodedError && error.code === "checkpoint_corrupt");
    assert.deepEqual(files(), []);
  });
}

test("a plan by rows says what memory its blocks take: it does not grow with the tensor", () => {
  const { checkpoint, remove } = tinyCheckpoint();
  remove();
  const memoryOf = (vocabSize: number): number => {
    const config = { ...checkpoint.manifest.config, vocabSize, hiddenSize: 1024 };
    const source = { config, tensors: expectedTensors(config, "BF16") };
    return planGrowth(source, width({ target: { hidden_size: 2048 } })).peakMemoryBytes;
  };
  assert.equal(memoryOf(128_000), memoryOf(1_000));
  assert.ok(memoryOf(128_000) < 8 << 20);
});
