/** The registry, and the contract that every backend in it keeps: train, evaluate, compare, load. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs";
import { chooseBackend, getBackend, listBackends } from "../../../src/engine/backends/index.ts";
import { missingAvx512 } from "../../../src/engine/kernels/machine/avx512.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";
import type { KernelVariant } from "../../../src/engine/kernels/wasm/variants.ts";
import type { CompareResult } from "../../../src/engine/backends/work.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import type { WorkEvent } from "../../../src/ops/events.ts";
import type { ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { collect, resultOf, temporaryFolder, tinyCheckpoint, tinyDataset, tinyWork } from "../train/trainerFixture.ts";

const missing = await missingBlas();
const never = new AbortController().signal;

async function failure(work: () => Promise<unknown>): Promise<CodedError> {
  return work().then(
    () => assert.fail("it should have failed"),
    (error: unknown) => error as CodedError,
  );
}

async function compared(
  name: string,
  source: ResolvedCheckpoint,
  target: ResolvedCheckpoint,
  seed = 1,
): Promise<CompareResult> {
  const events = await collect(getBackend(name).compare({ source, target, seed, sequences: 2, positions: 16 }, never));
  return (events.at(-1) as Extract<WorkEvent, { type: "result" }>).result as CompareResult;
}

/** The checkpoint with one tensor's values halved, by a view of other bytes: its norm gains at another place. */
function swapped(checkpoint: ResolvedCheckpoint, a: string, b: string): ResolvedCheckpoint {
  const { tensors } = checkpoint.manifest;
  const from = tensors.find(({ name }) => name === b)!;
  const changed = tensors.map((tensor) => (tensor.name === a ? { ...from, name: a } : tensor));
  return { ...checkpoint, manifest: { ...checkpoint.manifest, tensors: changed } };
}

test("auto is the most preferred backend that is available, allowed and no software GPU", async () => {
  assert.deepEqual(
    listBackends().map(({ name }) => name),
    ["webgpu", "native", "wasm", "cpu"],
  );
  const gpu = await getBackend("webgpu").probe();
  const onCpu = missing === null ? "native" : "wasm";
  assert.equal((await chooseBackend("auto")).name, gpu.available && gpu.automatic !== false ? "webgpu" : onCpu);
  assert.equal((await chooseBackend("auto", ["cpu", "wasm", "native"])).name, onCpu);
  assert.equal((await chooseBackend("auto", ["cpu", "wasm"])).name, "wasm");
  assert.equal((await chooseBackend("auto", ["cpu"])).name, "cpu");
  assert.equal((await chooseBackend("cpu", ["cpu", "wasm"])).name, "cpu");
  assert.equal((await chooseBackend("cpu")).name, "cpu");
});

test("a backend that is unknown, switched off, or among none is refused by name", async () => {
  for (const [name, allowed, message] of [
    ["warp", null, /no backend "warp"; there are webgpu, native, wasm, cpu/],
    ["__proto__", null, /no backend/],
    ["wasm", ["cpu"], /wasm is switched off here; BACKENDS allows cpu/],
    ["auto", ["warp"], /not available/],
  ] as const) {
    const error = await failure(() => chooseBackend(name, allowed));
    assert.equal(error.code, "backend_unavailable");
    assert.match(error.message, message);
  }
});

test("listing and probing backends loads no tensor library", () => {
  const index = fileURLToPath(new URL("../../../src/engine/backends/index.ts", import.meta.url));
  const script = `import { createRequire } from "node:module";
    const { listBackends } = await import(${JSON.stringify(index)});
    for (const backend of listBackends()) await backend.probe();
    console.log(Object.keys(createRequire(${JSON.stringify(index)}).cache).filter((file) => file.includes("tfjs")).length);`;
  assert.equal(execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" }).trim(), "0");
});

test("wasm finds its binaries from any working directory", () => {
  const runtime = fileURLToPath(new URL("../../../src/engine/backends/tfjsRuntime.ts", import.meta.url));
  const script = `const { activateTfjs } = await import(${JSON.stringify(runtime)}); await activateTfjs("wasm"); console.log("up");`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: tmpdir(),
    encoding: "utf8",
  });
  assert.equal(output.trim(), "up", "and nothing else is printed");
});

test(
  "native names the kernels of training, of generation and scoring, or says why not the fastest",
  { skip: missing ?? false },
  async () => {
    const features = async (variant?: KernelVariant) =>
      (await getBackend("native", variant ? { variant } : {}).probe()).features;
    const narrow = await features("relaxed");
    assert.equal(narrow["inference"], "wasm-relaxed");
    assert.match(String(narrow["inference_reason"]), /go with wasm-relaxed256, not wasm-relaxed/);
    assert.equal(narrow["training"], "wasm-relaxed");
    assert.equal(narrow["training_reason"], "COMPUTE_KERNELS asks for relaxed");
    const lacking = missingAvx512();
    const free = await features();
    if (free["kernels"] === "wasm-relaxed256") {
      assert.equal(free["training"], lacking === null ? "avx512" : "wasm-relaxed256");
      assert.equal(free["training_reason"], lacking === null ? undefined : `kernels for AVX-512: ${lacking}`);
    }
    const wide = await features("relaxed256");
    assert.equal(wide["training"], "wasm-relaxed256");
    assert.equal(wide["inference"], lacking === null ? "avx512" : "wasm-relaxed256");
    assert.equal(wide["inference_reason"], lacking === null ? undefined : `kernels for AVX-512: ${lacking}`);
  },
);

test(
  "where there is no BLAS, native says what is missing",
  { skip: missing === null ? "there is one" : false },
  async () => {
    const probe = await getBackend("native").probe();
    assert.equal(probe.available, false);
    assert.match(probe.reason!, /koffi|libopenblas0-pthread/);
  },
);

test("a probe that measures tells the build that is loaded, and the one that the settings insist on", async () => {
  const build = async (variant: KernelVariant | null): Promise<unknown> =>
    (await getBackend("wasm", { variant }).probe({ measure: true })).features["kernels"];
  assert.ok([`wasm-${kernelVariants.find(variantRuns)}`, "wasm-relaxed"].includes((await build(null)) as string));
  assert.equal(await build("simd128"), "wasm-simd128");
});

test("a training computes with the build that the settings insist on", async () => {
  const folder = temporaryFolder();
  const work = { ...tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder), tokens: 32 };
  const [first] = await collect(getBackend("wasm", { variant: "simd128" }).train(work, never));
  assert.match(first!.type === "log" ? first!.message : "", /kernels wasm-simd128/);
});

test("a build that the engine does not run makes the backend unavailable by name", async (t) => {
  t.mock.method(WebAssembly, "validate", () => false);
  const { available, reason } = await getBackend("wasm", { variant: "relaxed" }).probe({ measure: true });
  assert.equal(available, false);
  assert.match(reason!, /COMPUTE_KERNELS asks for, relaxed/);
});

const absent: Readonly<Record<string, string | null>> = { native: missing, webgpu: await missingGpu() };
const here = listBackends().filter(({ name }) => (absent[name] ?? null) === null);
for (const { name } of here) {
  test(`${name}: its probe says what it is`, async () => {
    const probe = await getBackend(name).probe();
    assert.equal(probe.available, true);
    assert.equal(probe.reason, null);
    assert.ok(probe.memoryBytes! > 2 ** 28);
  });

  test(`${name}: trains a checkpoint to a result`, async () => {
    const folder = temporaryFolder();
    const work = { ...tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder), tokens: 64 };
    const events = await collect(getBackend(name).train(work, never));
    assert.equal(resultOf(events).state.step, 2);
  });

  test(`${name}: a checkpoint differs from itself by nothing, and from another by a repeatable number`, async () => {
    const checkpoint = await tinyCheckpoint(temporaryFolder());
    const before = tf.memory().numTensors;
    assert.deepEqual(await compared(name, checkpoint, checkpoint), {
      maxAbsLogitChange: 0,
      rmsLogitChange: 0,
      dtype: "float32",
      probeTokens: 32,
    });
    const other = swapped(checkpoint, "model.norm.weight", "model.layers.0.input_layernorm.weight");
    const change = await compared(name, checkpoint, other);
    assert.ok(change.rmsLogitChange > 1e-3 && change.maxAbsLogitChange > change.rmsLogitChange);
    assert.deepEqual(await compared(name, checkpoint, other), change);
    assert.notDeepEqual(await compared(name, checkpoint, other, 2), change, "another seed probes elsewhere");
    assert.equal(tf.memory().numTensors, before, "no tensor is left over");
  });

  test(`${name}: comparing stops when asked, and refuses vocabularies that differ`, async () => {
    const checkpoint = await tinyCheckpoint(temporaryFolder());
    const work = { source: checkpoint, target: checkpoint, seed: 1, sequences: 1, positions: 4 };
    const events = await collect(getBackend(name).compare(work, AbortSignal.abort()));
    assert.deepEqual(events, [{ type: "stopped" }]);
    const { manifest } = checkpoint;
    const target = { ...checkpoint, manifest: { ...manifest, config: { ...manifest.config, vocabSize: 30 } } };
    const error = await failure(() => collect(getBackend(name).compare({ ...work, target }, never)));
    assert.equal(error.code, "unprocessable");
  });

  test(`${name}: loads a checkpoint that scores and closes without a tensor left over`, async () => {
    const checkpoint = await tinyCheckpoint(temporaryFolder());
    const before = tf.memory().numTensors;
    const model = await getBackend(name).load(checkpoint);
    const [score] = await model.score([{ ids: [1, 2, 3, 4], start: 2 }], never);
    assert.ok(score!.logLikelihood < 0);
    model.close();
    assert.equal(tf.memory().numTensors, before);
  });

  test(`${name}: evaluating a checkpoint without a tokenizer is refused`, async () => {
    const checkpoint = await tinyCheckpoint(temporaryFolder());
    const work = { checkpoint, tasks: [], limit: null, bos: "none", maxLength: null, bootstrapIterations: 0 } as const;
    const error = await failure(() => collect(getBackend(name).evaluate(work, never)));
    assert.equal(error.code, "unprocessable");
  });
}

test("a model beyond the backend's memory is refused before it is read", async () => {
  const checkpoint = await tinyCheckpoint(temporaryFolder());
  const { manifest } = checkpoint;
  const config = { ...manifest.config, hiddenSize: 8192, intermediateSize: 28672, numHiddenLayers: 80 };
  const error = await failure(() => getBackend("wasm").load({ ...checkpoint, manifest: { ...manifest, config } }));
  assert.equal(error.code, "model_too_large");
  assert.match(error.message, /needs about \d+ bytes, wasm has \d+/);
});
