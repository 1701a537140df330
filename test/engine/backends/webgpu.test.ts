/** The webgpu backend on whatever adapter this machine has, a software one in CI. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as tf from "@tensorflow/tfjs";
import { getBackend } from "../../../src/engine/backends/index.ts";
import { chooseAdapter, type AdapterFacts } from "../../../src/engine/backends/webgpuDevice.ts";
import { startWebgpu } from "../../../src/engine/backends/webgpuRuntime.ts";
import { mostUnread } from "../../../src/engine/train/deferredUpdates.ts";
import type { WorkEvent } from "../../../src/ops/events.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import { sharedData } from "../../helpers/shared.ts";
import {
  collect,
  digestsOf,
  resultOf,
  temporaryFolder,
  tinyCheckpoint,
  tinyDataset,
  tinyWork,
} from "../train/trainerFixture.ts";

const missing = await missingGpu();
const options = { skip: missing ?? false };
const never = new AbortController().signal;
const stories = sharedData("checkpoints", "stories260K");
const golden = sharedData("golden", "hf", "logits", "stories260K.json");

function adapter(name: string, software: boolean): AdapterFacts {
  const limits = { maxBufferBytes: 1, maxBindingBytes: 1, workgroupBytes: 1, subgroups: [32, 32] } as const;
  return { name, vendor: "v", architecture: "a", description: "driver 1", software, features: [], ...limits };
}

test("the adapter is the real GPU before a software one, the one that is named, or a refusal that names what there is", () => {
  const all = [adapter("llvmpipe", true), adapter("Radeon", false), adapter("GeForce", false)];
  const choose = (wanted: string | null, software: "named" | "never" = "named", list = all): string =>
    chooseAdapter(list, (one) => one, { adapter: wanted, software, memoryBytes: null }).name;
  assert.equal(choose(null), "Radeon");
  assert.equal(choose("geforce"), "GeForce");
  assert.equal(choose("LLVM"), "llvmpipe");
  assert.equal(choose(null, "named", all.slice(0, 1)), "llvmpipe");
  assert.throws(() => choose("arc"), /WEBGPU_ADAPTER asks for "arc"; there are "llvmpipe", "Radeon", "GeForce"/);
  assert.throws(() => choose(null, "never", all.slice(0, 1)), /WEBGPU_SOFTWARE is never/);
  assert.throws(() => choose(null, "named", []), /no GPU driver offers an adapter/);
});

test(
  "a probe that measures names the adapter, its driver, features and limits; auto passes a software one over",
  options,
  async () => {
    const probe = await getBackend("webgpu").probe({ measure: true });
    assert.equal(probe.available, true);
    assert.ok(probe.device);
    assert.equal(probe.automatic, probe.features["software"] !== true);
    assert.ok((probe.features["max_binding_bytes"] as number) >= 2 ** 27);
    const never_ = { adapter: null, software: "never", memoryBytes: null } as const;
    const refused = await getBackend("webgpu", { webgpu: never_ }).probe({ measure: true });
    assert.equal(refused.available, probe.features["software"] !== true);
  },
);

for (const [fault, code, message] of [
  ["error", "internal", /the GPU reported an error: .*usage/is],
  ["lost", "compute_crashed", /the GPU device was lost/],
] as const) {
  test(
    `a device that reports "${fault}" fails the training, no number comes after it, and the process ends`,
    options,
    async () => {
      const entry = fileURLToPath(new URL("./webgpuFaultProcess.ts", import.meta.url));
      const { stdout } = await promisify(execFile)(process.execPath, [entry, fault], { timeout: 60_000 });
      const { seen, error } = JSON.parse(stdout.trim().split("\n").at(-1)!) as {
        seen: string[];
        error: { code: string; message: string } | null;
      };
      assert.equal(error?.code, code);
      assert.match(error.message, message);
      assert.deepEqual(
        seen.filter((event) => event !== "log" && event !== "progress"),
        ["metrics 1", "metrics 2"],
      );
    },
  );
}

/** Greedy ids after a prompt. */
async function greedy(backend: string, promptIds: number[], maxTokens: number): Promise<number[]> {
  const model = await getBackend(backend).load(resolveFolder(stories as string));
  const request = { promptIds, maxTokens, temperature: 0, topP: 1, seed: 0, stopIds: [], logprobs: null, echo: false };
  const ids: number[] = [];
  for await (const event of model.generate(request, never)) if (event.type === "token") ids.push(event.id);
  model.close();
  return ids;
}

const needsStories = { skip: missing ?? (stories && golden ? false : "no shared data") };
test(
  "stories260K is continued greedily with the tokens of the cpu backend and of transformers",
  needsStories,
  async () => {
    const { prompts } = JSON.parse(readFileSync(golden as string, "utf8")) as {
      prompts: { input_ids: number[]; greedy: number[]; greedy_margin: number[] }[];
    };
    for (const { input_ids, greedy: wanted, greedy_margin } of prompts.slice(0, 2)) {
      const tie = greedy_margin.findIndex((margin) => margin < 1e-3);
      const count = tie < 0 ? wanted.length : tie;
      const made = await greedy("webgpu", input_ids, count);
      assert.deepEqual(made, wanted.slice(0, count));
      assert.deepEqual(made, await greedy("cpu", input_ids, count));
    }
  },
);

for (const name of ["stories260K-bf16", "stories260K-f16-sharded"]) {
  const path = sharedData("checkpoints", name);
  const skip = missing ?? (path ? false : "no shared data");
  test(`${name} is loaded as on cpu, widened exactly`, { skip }, async () => {
    const ids = [1, 403, 407, 261, 378, 298, 395, 447, 266, 318];
    const scores = [];
    for (const backend of ["webgpu", "cpu"]) {
      const model = await getBackend(backend).load(resolveFolder(path as string));
      scores.push((await model.score([{ ids, start: 1 }], never))[0]!.logLikelihood);
      model.close();
    }
    const off = Math.abs(scores[0]! - scores[1]!);
    assert.ok(off < 1e-4 && scores[0]! < -1, `${scores}`);
  });
}

const bf16 = sharedData("checkpoints", "stories260K-bf16");
test(
  "a training of a bf16 checkpoint leaves what it does not change in bf16, with its bytes, and writes the rest in float32",
  { skip: missing ?? (bf16 ? false : "no shared data") },
  async () => {
    const folder = temporaryFolder();
    const checkpoint = resolveFolder(bf16 as string);
    const trainable = ["model.norm.weight", "model.layers.4.mlp.down_proj.weight"];
    const work = { ...tinyWork(checkpoint, tinyDataset(folder), folder), tokens: 64, trainable };
    const { state } = resultOf(await collect(getBackend("webgpu").train(work, never)));
    for (const [i, tensor] of state.weights.entries()) {
      const before = checkpoint.manifest.tensors[i]!;
      if (!trainable.includes(tensor.name)) assert.deepEqual(tensor, before);
      else assert.deepEqual([tensor.name, tensor.dtype, tensor.shape], [before.name, "F32", before.shape]);
    }
    assert.deepEqual(new Set(checkpoint.manifest.tensors.map(({ dtype }) => dtype)), new Set(["BF16"]));
  },
);

test("a training stopped and resumed on one device ends with the bytes of one that was not", options, async () => {
  const folder = temporaryFolder();
  const work = tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder);
  const backend = getBackend("webgpu");
  const whole = digestsOf(resultOf(await collect(backend.train(work, never))).state);
  assert.deepEqual(digestsOf(resultOf(await collect(backend.train(work, never))).state), whole, "run again");
  const controller = new AbortController();
  const first = await collect(backend.train(work, controller.signal), (event) => {
    if (event.type === "metrics" && event.point.step === 3) controller.abort();
  });
  const saved = first.findLast((event): event is Extract<WorkEvent, { type: "saved" }> => event.type === "saved");
  // What was asked for before the third update was told of is done first.
  assert.ok(saved && saved.state.step >= 3 && saved.state.step < 6);
  const resume = JSON.parse(JSON.stringify(saved.state)) as typeof saved.state;
  assert.deepEqual(digestsOf(resultOf(await collect(backend.train({ ...work, resume }, never))).state), whole);
});

test("memory of the device stays flat over updates, and over prompts of many lengths is bounded", options, async () => {
  const folder = temporaryFolder();
  const base = tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder);
  const work = { ...base, tokens: 120 * 32, validateEveryTokens: null };
  const { buffers } = await startWebgpu();
  const marks: { tensors: number; bytes: number }[] = [];
  await collect(getBackend("webgpu").train(work, never), (event) => {
    if (event.type !== "metrics" || event.point.step % 40 !== 0) return;
    marks.push({ tensors: tf.memory().numTensors, bytes: buffers.numBytesAllocated });
  });
  assert.equal(marks.length, 3);
  for (const { tensors, bytes } of marks) {
    // Decisions on updates wait to be read, more or fewer of them.
    assert.ok(Math.abs(tensors - marks[0]!.tensors) <= mostUnread, `${tensors} tensors, ${marks[0]!.tensors} at first`);
    // What waits for the next submit is a little more or less each time.
    assert.ok(Math.abs(bytes - marks[0]!.bytes) < 2 ** 16, `${bytes} bytes, ${marks[0]!.bytes} at first`);
  }
  const model = await getBackend("webgpu").load(await tinyCheckpoint(folder));
  for (let length = 2; length < 30; length++) {
    await model.score([{ ids: Array.from({ length }, (_, i) => i % 29), start: 1 }], never);
  }
  model.close();
  assert.ok(buffers.numBytesAllocated - buffers.numBytesUsed < 300 * 2 ** 20);
});
