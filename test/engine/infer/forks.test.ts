/**
 * Contexts that share their beginning: whatever is forked, cut, continued and closed in whatever order, a row has the
 * bits that it has in a context of its own that computed all of it, on each kind of cache; and memory comes back.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { TfjsBackendName } from "../../../src/engine/backends/tfjsRuntime.ts";
import { batching } from "../../../src/engine/infer/batcher.ts";
import type { BatchDecoder, Context, PromptDecoder } from "../../../src/engine/infer/decoder.ts";
import { generate } from "../../../src/engine/infer/generate.ts";
import { llamaDecoder } from "../../../src/engine/infer/loadServedModel.ts";
import { SharedPrompts } from "../../../src/engine/infer/prompts.ts";
import { openTeamModel, weightsOf } from "../../../src/engine/infer/teamModel.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { KernelChoice } from "../../../src/engine/kernels/index.ts";
import { SharedHeap } from "../../../src/engine/kernels/inference/sharedHeap.ts";
import { disposeWeights, loadWeights } from "../../../src/engine/model/weights.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { missingBlas } from "../../helpers/blas.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

// The library chooses its kernels itself, whatever this machine was told.
delete process.env["OPENBLAS_CORETYPE"];
const vocab = 97;
const longest = 300;
const { checkpoint, remove } = tinyCheckpoint({
  config: {
    ...{ vocabSize: vocab, hiddenSize: 36, intermediateSize: 50, numAttentionHeads: 6, numKeyValueHeads: 3 },
    ...{ headDim: 6, maxPositionEmbeddings: longest, eosTokenIds: [], bosTokenId: null },
  },
});
const { config } = checkpoint.manifest;

interface Opened {
  readonly decoder: BatchDecoder;
  close(): void;
}

async function onTfjs(backend: TfjsBackendName, choice: KernelChoice): Promise<Opened> {
  await activateTfjs(backend);
  const { kernels } = await kernelsFor(backend, choice);
  const weights = await loadWeights(checkpoint);
  return { decoder: llamaDecoder(config, weights, kernels), close: () => disposeWeights(weights) };
}

async function onTeam(choice: KernelChoice, threads: number): Promise<Opened> {
  await activateTfjs("wasm");
  const { kernels } = await kernelsFor("wasm", choice);
  assert.ok(kernels.inference);
  return openTeamModel(config, weightsOf(checkpoint), kernels.inference, threads);
}

interface Line {
  readonly context: Context;
  readonly ids: number[];
}

/** A random story of contexts, and what each row that it asked for was, with the ids before it. */
async function story(decoder: BatchDecoder, seed: number, length: number): Promise<[number[], Float32Array][]> {
  const { uniform } = seededStream(seed, "forks");
  const below = (count: number): number => Math.floor(uniform() * count);
  const lines: Line[] = [{ context: decoder.start(longest), ids: [] }];
  const rows: [number[], Float32Array][] = [];
  for (let act = 0; act < length; act++) {
    const line = lines[below(lines.length)]!;
    const what = uniform();
    if (what < 0.35 && lines.length < 8) {
      const held = below(line.ids.length + 1);
      lines.push({ context: line.context.fork(held, longest), ids: line.ids.slice(0, held) });
    } else if (what < 0.45 && lines.length > 1) {
      lines.splice(lines.indexOf(line), 1);
      line.context.close();
    } else if (what < 0.55) {
      const held = below(line.ids.length + 1);
      line.context.truncate(held);
      line.ids.length = held;
    } else {
      const chosen = lines.filter(({ ids }) => uniform() < 0.6 && ids.length < longest - 90);
      if (chosen.length === 0) continue;
      const parts = chosen.map(({ context }) => {
        const ids = Array.from({ length: 1 + below(uniform() < 0.5 ? 2 : 90) }, () => below(vocab));
        return { context, ids, rows: 1 };
      });
      const made = await decoder.step(parts);
      for (const [i, { ids }] of chosen.entries()) {
        ids.push(...parts[i]!.ids);
        rows.push([[...ids], made[i]!.logits.slice()]);
      }
    }
    for (const { context, ids } of lines) assert.ok(context.length === ids.length && context.room >= ids.length);
  }
  for (const { context } of lines) context.close();
  return rows;
}

const noBlas = (await missingBlas()) ?? false;
const noGpu = (await missingGpu()) ?? false;

describe("contexts that share their beginning have the bits of contexts that share nothing", () => {
  for (const [name, open, seeds, skip] of [
    ["cpu", () => onTfjs("cpu", "reference"), 1, false],
    ["tfjs with wasm kernels, which write in place", () => onTfjs("wasm", "wasm-simd"), 2, false],
    ["pages, one thread", () => onTeam("wasm-simd", 1), 4, false],
    ["pages, three threads", () => onTeam("wasm-simd", 3), 4, false],
    ["pages and BLAS", () => onTeam("native", 2), 2, noBlas],
    ["webgpu", () => onTfjs("webgpu", "webgpu"), 1, noGpu],
  ] as const) {
    test(name, { skip }, async () => {
      const heaps = new Set<SharedHeap>();
      const { take } = SharedHeap.prototype;
      SharedHeap.prototype.take = function (wantedBytes) {
        heaps.add(this);
        return take.call(this, wantedBytes);
      };
      const { decoder, close } = await open();
      const used = (): number => [...heaps].reduce((sum, heap) => sum + heap.usedBytes, 0);
      // The room for a step's rows stays.
      const warm = [0, 1, 2].map(() => decoder.start(longest));
      await decoder.step(warm.map((context) => ({ context, ids: Array<number>(256).fill(1), rows: 3 })));
      for (const context of warm) context.close();
      const [tensors, bytes] = [tf.memory().numTensors, used()];
      for (let seed = 0; seed < seeds; seed++) {
        const rows = await story(decoder, seed, seeds === 1 ? 30 : 120);
        assert.ok(rows.length > 10);
        assert.deepEqual([tf.memory().numTensors, used()], [tensors, bytes], "everything is given back");
        for (const [ids, row] of seeds === 1 ? rows.slice(-6) : rows.slice(-60)) {
          const own = decoder.start(longest);
          const [wanted] = await decoder.step([{ context: own, ids, rows: 1 }]);
          assert.deepEqual(row, wanted!.logits.slice(), `seed ${seed}, after ${ids.length} ids`);
          own.close();
        }
      }
      SharedHeap.prototype.take = take;
      close();
    });
  }
});

test("a heap that is full takes back what was kept, in mid-step too, and no answer fails or differs", async () => {
  const heaps = new Set<SharedHeap>();
  const { take } = SharedHeap.prototype;
  let mostBytes = Infinity;
  SharedHeap.prototype.take = function (wantedBytes) {
    heaps.add(this);
    if (this.usedBytes + wantedBytes > mostBytes) throw new CodedError("out_of_memory", "the heap of the test is full");
    return take.call(this, wantedBytes);
  };
  const { decoder, close } = await onTeam("wasm-simd", 2);
  // The room for a step's rows stays.
  const warm = decoder.start(longest);
  await decoder.step([{ context: warm, ids: Array<number>(256).fill(1), rows: 24 }]);
  warm.close();
  let relieved = 0;
  const relieve = (): boolean => prompts.relieve() && ++relieved > 0;
  const prompts = new SharedPrompts(batching(decoder, { relieve }), { positions: 100_000, sharesPages: true });
  const ask = async (from: PromptDecoder, seed: number): Promise<number[]> => {
    const promptIds = Array.from({ length: 150 }, (_, i) => (i * i + seed * (i < 70 ? 1 : 7)) % vocab);
    const settings = { maxTokens: 6, temperature: 1, topP: 1, seed, stopIds: [], logprobs: null, echo: false };
    const ids: number[] = [];
    for await (const event of generate(from, { promptIds, ...settings }, new AbortController().signal)) {
      if (event.type === "token") ids.push(event.id);
    }
    return ids;
  };
  const seeds = Array.from({ length: 24 }, (_, seed) => seed);
  const alone: number[][] = [];
  for (const seed of seeds)
    alone.push(await ask(new SharedPrompts(batching(decoder), { positions: 0, sharesPages: true }), seed));
  const before = [...heaps][0]!.usedBytes;
  await ask(prompts, 0);
  const each = [...heaps][0]!.usedBytes - before;
  mostBytes = before + 5 * each + each / 2;
  for (const seed of seeds) assert.deepEqual(await ask(prompts, seed), alone[seed], `seed ${seed}`);
  const pairs = seeds.map(async (seed, i) => {
    for (let turn = 0; turn < 40 * (i >> 1); turn++) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(await ask(prompts, seed), alone[seed], `seed ${seed} in company`);
  });
  await Promise.all(pairs);
  assert.ok(relieved > 10, `${relieved} were given up`);
  prompts.close();
  SharedHeap.prototype.take = take;
  assert.equal([...heaps][0]!.usedBytes, before);
  close();
});

test("a fork of more than there is, or of more than it may hold, is refused", async () => {
  const { decoder, close } = await onTeam("wasm-simd", 1);
  const context = decoder.start(longest);
  await decoder.step([{ context, ids: [1, 2, 3], rows: 0 }]);
  assert.throws(() => context.fork(4, longest), /invariant/);
  assert.throws(() => context.fork(3, 2), /invariant/);
  context.close();
  assert.throws(() => context.fork(1, longest), /invariant/);
  close();
  remove();
});
