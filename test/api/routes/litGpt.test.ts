/** A checkpoint in lit-gpt's layout over HTTP: registered, the same as its Hugging Face twin, grown and taken home. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileOf, tinyTensors, writeFiles } from "../../engine/checkpoint/fixtures.ts";
import { configOf, litGptMlp, litGptTensors } from "../../engine/checkpoint/litGptFixture.ts";
import { startHarness, type Harness } from "../helpers/harness.ts";

let api: Harness;
const root = mkdtempSync(join(tmpdir(), "cambium-lit-gpt-"));
const heads = { queries: 4, groups: 2, headDim: 4 };
const config = configOf(heads);

before(async () => {
  api = await startHarness({ environment: { IMPORT_ROOTS: root } });
});
after(async () => {
  await api.close();
  rmSync(root, { recursive: true, force: true });
});

async function register(name: string, tensors: Parameters<typeof fileOf>[0], mode: string) {
  const files = { "config.json": JSON.stringify(config), "model.safetensors": fileOf(tensors) };
  const path = await writeFiles(root, name, files);
  const job = await api.work("/v1/checkpoints", { name, source: { type: "directory", path, mode } });
  return (await api.call("GET", `/v1/checkpoints/${job.result.checkpoint}`)).body;
}

test("by reference and by copy it has the digest of its twin, downloads as that, and grows", async () => {
  const tensors = tinyTensors(config);
  const fused = litGptTensors(tensors, heads, litGptMlp);
  const [twin, referred, copied] = [
    await register("twin", tensors, "copy"),
    await register("referred", fused, "reference"),
    await register("copied", fused, "copy"),
  ];
  assert.equal(referred.digest, twin.digest);
  assert.equal(copied.digest, twin.digest);
  const download = async (id: string): Promise<Buffer> =>
    Buffer.from(await (await api.fetch(`/v1/checkpoints/${id}/files/model.safetensors`)).arrayBuffer());
  assert.ok((await download(referred.id)).equals(await download(twin.id)));
  const growth = { checkpoint: referred.id, operator: "direct", axis: "width", factor: 2, name: "grown" };
  const { result } = await api.work("/v1/growths", growth);
  const { body: grown } = await api.call("GET", `/v1/checkpoints/${result.checkpoint}`);
  assert.ok(grown.num_parameters > 2 * twin.num_parameters);
});

test("a fused matrix of other heads is refused by its own name", async () => {
  const fused = litGptTensors(tinyTensors(configOf({ ...heads, groups: 4 })), { ...heads, groups: 4 }, litGptMlp);
  const files = { "config.json": JSON.stringify(config), "model.safetensors": fileOf(fused) };
  const source = { type: "directory", path: await writeFiles(root, "wrong", files), mode: "copy" };
  const headers = { Prefer: "wait=60" };
  const answer = await api.call("POST", "/v1/checkpoints", { body: { name: "wrong", source }, headers });
  assert.equal(answer.body.status, "failed", JSON.stringify(answer.body));
  assert.equal(answer.body.error.code, "checkpoint_corrupt");
  assert.match(JSON.stringify(answer.body.error), /transformer\.h\.0\.attn\.attn\.weight has 48 rows/);
});
