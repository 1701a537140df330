/** `dtype` of a training over HTTP: the same weights in 16 bits, which everything takes as it takes float32. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { encodeFromF32 } from "../../../src/ops/dtype.ts";
import { assertProblem, startHarness, tinyConfig, type Harness } from "../helpers/harness.ts";

const training = { batch_tokens: 32, sequence_length: 16, tokens: 128, optimizer: { learning_rate: 0.01 } };

/** Offset of the first tensor's bytes in a safetensors file, and its header. */
function headerOf(file: Buffer): { start: number; header: Record<string, { dtype: string; data_offsets: number[] }> } {
  const size = Number(file.readBigUInt64LE(0));
  return { start: 8 + size, header: JSON.parse(file.subarray(8, 8 + size).toString()) };
}

describe("a training that saves its weights as BF16", () => {
  let api: Harness;
  let wide: string;
  let narrow: string;

  before(async () => {
    api = await startHarness();
    const config = { ...tinyConfig, torch_dtype: "float32" };
    await api.work("/v1/checkpoints", {
      name: "base",
      source: { type: "random", seed: 1, tokenizer: "bytes", config },
    });
    const text = Array.from({ length: 10 }, (_, index) => `${index}: the quick brown fox. `.repeat(40));
    await api.work("/v1/datasets", { name: "text", source: { type: "text", text }, tokenizer: "bytes" });
    const train = (more: object) =>
      api.work("/v1/trainings", { checkpoint: "base", dataset: "text", backend: "wasm", ...training, ...more });
    wide = (await train({ name: "wide", save_every_tokens: 64 })).result.checkpoint;
    narrow = (await train({ name: "narrow", save_every_tokens: 64, dtype: "BF16" })).result.checkpoint;
  });
  after(() => api.close());

  const download = async (id: string): Promise<Buffer> => {
    const response = await api.fetch(`/v1/checkpoints/${id}/files/model.safetensors`);
    assert.equal(response.status, 200);
    return Buffer.from(await response.arrayBuffer());
  };

  test("each checkpoint of it is the float32 one rounded, and says so in resource, config and tensors", async () => {
    for (const [exact, saved] of [
      [wide, narrow],
      ["wide-step-2", "narrow-step-2"],
    ] as const) {
      const { body } = await api.call("GET", `/v1/checkpoints/${saved}`);
      assert.equal(body.dtype, "BF16");
      assert.equal(body.config.torch_dtype, "bfloat16");
      assert.equal(body.size_bytes, (await api.call("GET", `/v1/checkpoints/${exact}`)).body.size_bytes / 2);
      const [file, twin] = [await download(exact), await download(saved)];
      const [{ start, header }, rounded] = [headerOf(file), headerOf(twin)];
      let tensors = 0;
      for (const [name, { data_offsets: at }] of Object.entries(header)) {
        if (name === "__metadata__") continue;
        const values = new Float32Array(new Uint8Array(file.subarray(start + at[0]!, start + at[1]!)).buffer);
        const { dtype, data_offsets: to } = rounded.header[name]!;
        assert.equal(dtype, "BF16");
        const bytes = twin.subarray(rounded.start + to[0]!, rounded.start + to[1]!);
        assert.ok(bytes.equals(encodeFromF32(values, "BF16")), `${exact}: ${name}`);
        tensors++;
      }
      assert.equal(tensors, (await api.call("GET", `/v1/checkpoints/${exact}/tensors?limit=100`)).body.data.length);
    }
  });

  test("it is grown, trained on and queried like any other, and a growth keeps its element type", async () => {
    const grown = await api.work("/v1/growths", {
      ...{ checkpoint: narrow, operator: "direct", axis: "width", factor: 2, name: "grown" },
    });
    assert.equal((await api.call("GET", `/v1/checkpoints/${grown.result.checkpoint}`)).body.dtype, "BF16");
    const again = { checkpoint: "grown", dataset: "text", backend: "wasm", ...training };
    const { result } = await api.work("/v1/trainings", again);
    assert.equal((await api.call("GET", `/v1/checkpoints/${result.checkpoint}`)).body.dtype, "F32");
    const answer = await api.call("POST", "/v1/completions", {
      body: { model: narrow, prompt: "the quick", max_tokens: 4, temperature: 0 },
    });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.equal(answer.body.usage.completion_tokens, 4);
  });

  test("an element type that there is not is refused", async () => {
    const body = { checkpoint: "base", dataset: "text", ...training, dtype: "bfloat16" };
    assertProblem(await api.call("POST", "/v1/trainings", { body }), 400, "invalid_request");
  });
});
