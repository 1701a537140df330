/**
 * What a training saves its weights in: checkpoints are those of a float32 run rounded to nearest, ties to even;
 * resume points stay float32, so that stopping changes no byte.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { getBackend } from "../../../src/engine/backends/index.ts";
import type { TrainWork } from "../../../src/engine/backends/work.ts";
import { readTensors } from "../../../src/engine/checkpoint/tensorReader.ts";
import { writeTensors } from "../../../src/engine/checkpoint/writer.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { train } from "../../../src/engine/train/trainer.ts";
import { expectedTensors } from "../../../src/ops/architectures/llama.ts";
import { elementCount } from "../../../src/ops/dtype.ts";
import type { WorkEvent } from "../../../src/ops/events.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import type { Dtype, TensorRef } from "../../../src/ops/tensor.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { collect, digestsOf, resultOf, temporaryFolder, tinyCheckpoint, tinyConfig } from "./trainerFixture.ts";
import { tinyDataset, tinyWork } from "./trainerFixture.ts";

const never = new AbortController().signal;
const folder = temporaryFolder();

async function run(change: Partial<TrainWork>, signal = never, onEvent?: (event: WorkEvent) => void) {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm");
  const work = { ...tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder), ...change };
  return collect(train(work, kernels, signal, { memoryBytes: null }), onEvent);
}

async function valuesOf(tensors: readonly TensorRef[]): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>();
  const { blobs } = await tinyCheckpoint(folder, { tensors, optimizer: null });
  for await (const tensor of readTensors(blobs, tensors)) values.set(tensor.info.name, tensor.values);
  return values;
}

/** The bfloat16 nearest to a finite float32, by looking at both neighbours. */
function nearestBfloat16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const low = view.getUint16(0);
  const of = (half: number): number => {
    view.setUint32(0, half * 65_536);
    return view.getFloat32(0);
  };
  const [toLow, toHigh] = [Math.abs(value - of(low)), Math.abs(of(low + 1) - value)];
  if (toLow === toHigh) return of(low % 2 === 0 ? low : low + 1);
  return of(toLow < toHigh ? low : low + 1);
}

function publishedOf(events: readonly WorkEvent[]): (readonly TensorRef[])[] {
  return events.flatMap((event) => (event.type === "saved" && event.publish ? [event.publish] : []));
}

test("BF16: every checkpoint holds the float32 run's weights rounded; resume points and moments its very bytes", async () => {
  const change = { saveEveryTokens: 64 };
  const [plain, rounded] = [await run(change), await run({ ...change, dtype: "BF16" })];
  const [wanted, got] = [resultOf(plain).state, resultOf(rounded).state];
  const pairs = [wanted.weights, ...publishedOf(plain)].map(
    (weights, index) => [weights, [got.weights, ...publishedOf(rounded)][index]!] as const,
  );
  assert.equal(pairs.length, 3);
  let changed = 0;
  for (const [exact, saved] of pairs) {
    assert.ok(saved.every(({ dtype, shape, sizeBytes }) => dtype === "BF16" && sizeBytes === 2 * elementCount(shape)));
    const values = await valuesOf(saved);
    for (const [name, before] of await valuesOf(exact)) {
      const after = values.get(name)!;
      before.forEach((value, i) => {
        assert.ok(Object.is(after[i], nearestBfloat16(value)), `${name}[${i}]: ${value} became ${after[i]}`);
        if (after[i] !== value) changed++;
      });
    }
  }
  assert.ok(changed > 1_000, "a training whose weights need no rounding shows nothing");
  assert.deepEqual(got.optimizer, wanted.optimizer);
  const states = (events: readonly WorkEvent[]) =>
    events.flatMap((event) => (event.type === "saved" ? [digestsOf(event.state)] : []));
  assert.deepEqual(states(rounded), states(plain));
});

test("BF16: a run stopped after a checkpoint and resumed ends with the same bytes", async () => {
  const change = { saveEveryTokens: 64, dtype: "BF16" } as const;
  const whole = resultOf(await run(change)).state;
  const controller = new AbortController();
  const stopped = await run(change, controller.signal, (event) => event.type === "saved" && controller.abort());
  const saved = stopped.findLast((event) => event.type === "saved");
  assert.ok(stopped.at(-1)?.type === "stopped" && saved?.type === "saved" && saved.publish !== null);
  const resume = JSON.parse(JSON.stringify(saved.state));
  const again = resultOf(await run({ ...change, resume })).state;
  assert.deepEqual(digestsOf(again), digestsOf(whole));
});

test("tensors that are not trained keep their bytes and element type", async () => {
  const trainable = ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"];
  const { manifest } = await tinyCheckpoint(folder);
  const { weights } = resultOf(await run({ dtype: "F16", trainable })).state;
  for (const [index, tensor] of weights.entries()) {
    if (trainable.includes(tensor.name)) assert.equal(tensor.dtype, "F16");
    else assert.deepEqual(tensor, manifest.tensors[index]);
  }
});

test("F16: a weight that it cannot hold fails by name instead of becoming infinite", async () => {
  const large = "model.layers.0.self_attn.v_proj.bias";
  const written = await writeTensors(
    folder,
    expectedTensors(tinyConfig).map((info) => ({
      info,
      data: () => {
        const values = seededStream(11, info.name).fillNormal(new Float32Array(elementCount(info.shape)), 0.3);
        return info.name === large ? values.fill(65_521) : values;
      },
    })),
  );
  const checkpoint = await tinyCheckpoint(folder, { tensors: written.tensors, optimizer: null });
  const optimizer = { ...tinyWork(checkpoint, tinyDataset(folder), folder).optimizer, learningRate: 1e-9 };
  await assert.rejects(run({ checkpoint, optimizer, dtype: "F16" }), {
    code: "unprocessable",
    message: /^step 6: model\.layers\.0\.self_attn\.v_proj\.bias holds 6552\d.*too large for dtype F16; wanted F32$/,
  });
  assert.equal(resultOf(await run({ checkpoint, optimizer, dtype: "BF16" })).state.step, 6);
});

const noGpu = (await missingGpu()) ?? false;

test(
  "webgpu trains a checkpoint saved in BF16 to the bytes to which it trains its values in float32",
  { skip: noGpu },
  async () => {
    const values = await valuesOf(resultOf(await run({ dtype: "BF16" })).state.weights);
    const trained = async (dtype: Dtype) => {
      const { tensors } = await writeTensors(
        folder,
        expectedTensors(tinyConfig, dtype).map((info) => ({ info, data: () => values.get(info.name)! })),
      );
      const work = tinyWork(await tinyCheckpoint(folder, { tensors, optimizer: null }), tinyDataset(folder), folder);
      return resultOf(await collect(getBackend("webgpu").train({ ...work, tokens: 64, dtype: "BF16" }, never))).state;
    };
    const [wide, narrow] = [await trained("F32"), await trained("BF16")];
    assert.ok(narrow.weights.every(({ dtype }) => dtype === "BF16"));
    assert.deepEqual(digestsOf(narrow), digestsOf(wide));
  },
);
