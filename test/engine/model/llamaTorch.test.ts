/**
 * The trained stories260K against transformers and llama2.c: logits, logits of its depth-grown children, and
 * the mean loss over windows of real text.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as tf from "@tensorflow/tfjs";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import type { Kernels } from "../../../src/engine/kernels/kernels.ts";
import { hiddenStates, logits, lossSum } from "../../../src/engine/model/llama.ts";
import { disposeWeights, loadWeights } from "../../../src/engine/model/weights.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { LlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { maxDifference, resolveFolder } from "../../helpers/hfModel.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const golden = sharedData("golden", "hf-torch");
const stories = sharedData("checkpoints", "stories260K");
const skip = needsShared(golden, stories);
const positions = 128;

interface Golden {
  forward: { ids: number[] };
  growth: Record<string, { stacking_list: number[] }>;
  nll_512: Record<string, { windows: number; mean_nll: number; first8: number[] }>;
}

function goldenJson(): Golden {
  return JSON.parse(readFileSync(join(golden as string, "golden.json"), "utf8")) as Golden;
}

function goldenLogits(file: string): Float32Array {
  return new Float32Array(new Uint8Array(readFileSync(join(golden as string, file))).buffer);
}

interface Loaded {
  kernels: Kernels;
  config: LlamaConfig;
  weights: Map<string, tf.Tensor>;
}

async function loaded(backend: "cpu" | "wasm"): Promise<Loaded> {
  await activateTfjs(backend);
  const { kernels } = await kernelsFor(backend);
  const checkpoint = resolveFolder(stories as string);
  return { kernels, config: checkpoint.manifest.config, weights: await loadWeights(checkpoint) };
}

/** The same tensors under the names of a model with these source layers. */
function grown({ kernels, config, weights }: Loaded, layers: number[]): Loaded {
  const named = new Map<string, tf.Tensor>();
  for (const [name, tensor] of weights) {
    const match = /^model\.layers\.(\d+)\.(.*)$/.exec(name);
    if (!match) named.set(name, tensor);
    layers.forEach((from, to) => {
      if (match && Number(match[1]) === from) named.set(`model.layers.${to}.${match[2]}`, tensor);
    });
  }
  return { kernels, config: { ...config, numHiddenLayers: layers.length }, weights: named };
}

async function worstLogit({ kernels, config, weights }: Loaded, wanted: Float32Array): Promise<number> {
  const ids = Int32Array.from(goldenJson().forward.ids.slice(0, positions));
  const result = tf.tidy(() =>
    logits(kernels, config, weights, hiddenStates(kernels, config, weights, ids, 1, positions)),
  );
  const worst = maxDifference((await result.data()) as Float32Array, wanted);
  result.dispose();
  return worst;
}

for (const backend of ["cpu", "wasm"] as const) {
  test(`${backend}: stories260K has the logits of transformers and of llama2.c`, skip, async () => {
    const model = await loaded(backend);
    for (const file of ["stories260K_logits_128x512.f32", "stories260K_logits_128x512.runc.f32"]) {
      const worst = await worstLogit(model, goldenLogits(file));
      assert.ok(worst <= 1e-4, `${file}: ${worst}`);
    }
    disposeWeights(model.weights);
  });
}

test(
  "wasm: stories260K with its layers stacked, interleaved and overlapped has the logits of transformers",
  skip,
  async () => {
    const model = await loaded("wasm");
    const lists = Object.entries(goldenJson().growth);
    assert.equal(lists.length, 4);
    for (const [name, { stacking_list: layers }] of lists) {
      const worst = await worstLogit(grown(model, layers), goldenLogits(`grow_${name}_logits_128x512.f32`));
      assert.ok(worst <= 1e-3, `${name}: ${worst}`);
    }
    disposeWeights(model.weights);
  },
);

test("wasm: the mean loss over windows of real text is that of PyTorch", skip, async () => {
  const { kernels, config, weights } = await loaded("wasm");
  const file = (name: string): Uint8Array => readFileSync(join(stories as string, name));
  const tokenizer = loadTokenizer({
    tokenizerJson: file("tokenizer.json"),
    tokenizerConfigJson: file("tokenizer_config.json"),
  });
  for (const [path, { first8, mean_nll: mean, windows }] of Object.entries(goldenJson().nll_512)) {
    const short = windows <= 30;
    // Python, which made the golden values, reads a file's line ends as plain newlines.
    const text = readFileSync(sharedData(...path.split("/")) as string, "utf8").replaceAll("\r\n", "\n");
    // The start of a long text gives the same first tokens: no word is cut in the windows that are compared.
    const ids = tokenizer.encode(short ? text : text.slice(0, 20_000), { addSpecialTokens: false });
    const losses: number[] = [];
    for (let w = 0; w < (short ? windows : first8.length); w++) {
      const window = [config.bosTokenId as number, ...ids.slice(w * 511, (w + 1) * 511)];
      const loss = lossSum(
        kernels,
        config,
        weights,
        Int32Array.from(window.slice(0, -1)),
        Int32Array.from(window.slice(1)),
        1,
        511,
      );
      losses.push(((await loss.data())[0] as number) / 511);
      loss.dispose();
    }
    assert.ok(maxDifference(losses.slice(0, first8.length), first8) <= 1e-4, `${path}: ${losses.slice(0, 8).join()}`);
    if (short) assert.ok(Math.abs(losses.reduce((a, b) => a + b, 0) / windows - mean) <= 1e-4, `${path}: the mean`);
  }
  disposeWeights(weights);
});
