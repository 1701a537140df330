/**
 * Does memory stay flat? `node bench/soak.ts --steps 10000 --backend wasm --precision f32`: a training of a tiny model
 * through the trainer itself, by the backend's own kernels, with what tfjs and the process hold printed after steps 2,
 * 10, 100 and so on. Flat means: from the second step on no tensor more and no byte of the heap more. Exits with 1
 * where that is not so.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../src/engine/backends/tfjsRuntime.ts";
import type { TrainWork } from "../src/engine/backends/work.ts";
import { blobLocation } from "../src/engine/checkpoint/blobs.ts";
import { writeTensors } from "../src/engine/checkpoint/writer.ts";
import { kernelsFor } from "../src/engine/kernels/index.ts";
import type { KernelChoice } from "../src/engine/kernels/index.ts";
import { train } from "../src/engine/train/trainer.ts";
import { expectedTensors } from "../src/ops/architectures/llama.ts";
import { elementCount } from "../src/ops/dtype.ts";
import { seededStream } from "../src/ops/rng.ts";
import { configOf, optionsOf } from "./lib/model.ts";

const options = optionsOf({ steps: "10000", backend: "wasm", precision: "f32" });
const steps = Number(options["steps"]);
const [sequences, length] = [2, 16];
const batchTokens = sequences * length;
const shape = { D: 32, L: 2, heads: 2, F: 88, V: 64, T: length, B: sequences };

await activateTfjs("wasm");
const choices: Readonly<Record<string, KernelChoice>> = { wasm: "wasm-simd", native: "native", bf16: "native-bf16" };
const choice = choices[options["precision"] === "bf16" ? "bf16" : options["backend"]!];
if (choice === undefined) throw new Error(`--backend is ${options["backend"]}; there are wasm and native`);
const { kernels } = await kernelsFor("wasm", choice);
const folder = mkdtempSync(join(tmpdir(), "cambium-soak-"));
try {
  process.exitCode = (await soak(await workIn(folder))) ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** @returns whether memory stayed as it was after the second step. */
async function soak(work: TrainWork): Promise<boolean> {
  const heap = (tf.backend() as unknown as { wasm: { asm: { memory: WebAssembly.Memory } } }).wasm.asm.memory;
  let flat = true;
  let second: { tensors: number; bytes: number; heap: number } | null = null;
  let mark = 2;
  console.log(`${kernels.name}, ${steps} steps\n${"step".padStart(8)}  tensors  tensor bytes  wasm heap MiB  RSS MiB`);
  for await (const event of train(work, kernels, new AbortController().signal, { memoryBytes: null })) {
    if (event.type !== "metrics" || event.point.step < 2) continue;
    const { numTensors: tensors, numBytes: bytes } = tf.memory();
    const now = { tensors, bytes, heap: heap.buffer.byteLength };
    second ??= now;
    flat &&= now.tensors === second.tensors && now.bytes === second.bytes && now.heap === second.heap;
    if (event.point.step < mark && event.point.step < steps) continue;
    const cells = [tensors, bytes, (now.heap / 2 ** 20).toFixed(0), (process.memoryUsage().rss / 2 ** 20).toFixed(0)];
    console.log([event.point.step, ...cells].map((cell, i) => String(cell).padStart([8, 9, 14, 15, 9][i]!)).join(""));
    mark = mark === 2 ? 10 : mark * 10;
  }
  console.log(flat ? "flat from the second step on" : "NOT flat: something grew after the second step");
  return flat;
}

async function workIn(blobDir: string): Promise<TrainWork> {
  const config = configOf(shape);
  const { tensors, blob } = await writeTensors(
    blobDir,
    expectedTensors(config).map((info) => ({
      info,
      data: () => seededStream(1, info.name).fillNormal(new Float32Array(elementCount(info.shape)), 0.1),
    })),
  );
  const count = steps * batchTokens + 1;
  const path = join(blobDir, "ids.u16");
  writeFileSync(
    path,
    new Uint8Array(Uint16Array.from({ length: count }, (_, i) => (i * 7 + (i >> 3)) % shape.V).buffer),
  );
  return {
    checkpoint: {
      id: "ckpt_soak",
      manifest: {
        ...{ architecture: "llama", config, configJson: {}, tensors, files: [], original: null, optimizer: null },
      },
      blobs: { [blob.digest]: blobLocation(blobDir, blob) },
    },
    dataset: {
      id: "data_soak",
      manifest: {
        ...{ tokenizer: { kind: "bytes" }, vocabSize: shape.V, eosTokenId: 0, tokenDtype: "u16", digest: "" },
        ...{ train: [{ blob: "ids", numTokens: count }], validation: [], numTokens: count, numValidationTokens: 0 },
        ...{ numDocuments: 1, numValidationDocuments: 0 },
      },
      blobs: { ids: { path, sizeBytes: 2 * count, mtimeMs: null } },
    },
    ...{ tokens: steps * batchTokens, batchTokens, sequenceLength: length, microBatchSequences: 1 },
    optimizer: {
      ...{ type: "adamw", learningRate: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 },
      ...{ decay: "matrices", clip: 1 },
    },
    schedule: { type: "constant", warmupSteps: 10, totalSteps: steps, minLearningRate: 1e-3, decaySteps: 0 },
    ...{ seed: 0, skipTokens: 0, validateEveryTokens: null, validationTokens: 64, saveEveryTokens: null },
    ...{ saveEveryMs: 1e9, keepOptimizerState: false, resume: null, blobDir },
  };
}
