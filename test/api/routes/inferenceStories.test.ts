/**
 * A real trained model over HTTP: the story that llama2.c publishes, and lm-evaluation-harness's own
 * log-likelihoods, asked for as its `local-completions` client asks.
 */
import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { BlobLocation, FileRef, ResolvedCheckpoint } from "../../../src/ops/manifest.ts";
import { resolveFolder } from "../../helpers/hfModel.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const folder = sharedData("checkpoints", "stories260K");
const story = sharedData("golden", "llama2c", "stories260K.expected.txt");
const golden = sharedData("golden", "lm-eval", "stories260K-nobos", "lambada_openai.jsonl");
const docs = sharedData("benchmarks", "lambada_openai", "lambada_test.jsonl");
const slow = tinyCheckpoint({
  id: "ckpt_slow",
  bytes: false,
  config: { maxPositionEmbeddings: 20_000, eosTokenIds: [] },
});
let server: InferenceServer;
let client: OpenAI;

function withTokenizer(checkpoint: ResolvedCheckpoint): ResolvedCheckpoint {
  const files: FileRef[] = [];
  const blobs: Record<string, BlobLocation> = { ...checkpoint.blobs };
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    const path = `${folder!}/${name}`;
    const sizeBytes = statSync(path).size;
    files.push({ name, blob: name, sizeBytes });
    blobs[name] = { path, sizeBytes, mtimeMs: null };
  }
  return { id: "ckpt_stories", manifest: { ...checkpoint.manifest, files }, blobs };
}

before(async () => {
  const stories = folder === null ? [] : [withTokenizer(resolveFolder(folder))];
  server = await startInferenceServer([...stories, slow.checkpoint], { limits: { maxActive: 1 } });
  client = new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
after(async () => {
  await server.close();
  slow.remove();
});

test("the story of llama2.c, streamed, from an id and from an empty text", needsShared(folder, story), async () => {
  const expected = readFileSync(story!, "utf8").trim();
  const params = { model: "ckpt_stories", max_tokens: 200, temperature: 0 } as const;
  let text = "";
  for await (const chunk of await client.completions.create({ ...params, prompt: [1], stream: true }))
    text += chunk.choices[0]?.text ?? "";
  assert.equal(text.trim(), expected);
  const fromText = await client.completions.create({ ...params, prompt: "", max_tokens: 40 });
  assert.ok(expected.startsWith(fromText.choices[0]!.text.trim()), "an empty text is BOS alone");
});

test("echo gives a text back as it was, with offsets into it", needsShared(folder), async () => {
  const prompt = "Once upon a time, there was a d\u00f6g";
  const { choices } = await client.completions.create({
    model: "ckpt_stories",
    prompt,
    max_tokens: 3,
    temperature: 0,
    echo: true,
    logprobs: 0,
  });
  const { text, logprobs } = choices[0]!;
  assert.ok(text.startsWith(prompt));
  const characters = [...text];
  const { tokens, text_offset: offsets } = logprobs!;
  for (const [i, token] of tokens!.entries()) {
    if (token === "<s>" || token.startsWith("bytes:")) continue;
    const shown = characters.slice(offsets![i]).join("");
    assert.ok(
      shown.startsWith(token) || shown.startsWith(token.trimStart()),
      `token ${i} ${JSON.stringify(token)} at ${offsets![i]}`,
    );
  }
});

test("log-likelihoods by the harness's own recipe are the harness's", needsShared(folder, golden, docs), async () => {
  const tokenizer = loadTokenizer({ tokenizerJson: readFileSync(`${folder!}/tokenizer.json`) });
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
  const lines = readFileSync(docs!, "utf8").split("\n").slice(0, 8);
  const expected = readFileSync(golden!, "utf8").split("\n");
  const parts = lines.map((line) => {
    const words = (JSON.parse(line) as { text: string }).text.split(" ");
    return { context: encode(words.slice(0, -1).join(" ")), whole: encode(words.join(" ")) };
  });
  const prompt = parts.map((part) => part.whole) as unknown as number[];
  const answer = await client.completions.create({
    model: "ckpt_stories",
    prompt,
    temperature: 0,
    max_tokens: 1,
    logprobs: 1,
    seed: 1234,
    echo: true,
  });
  for (const [i, { context }] of parts.entries()) {
    const { token_logprobs: values, top_logprobs: tops } = answer.choices[i]!.logprobs!;
    const scored = values!.slice(context.length, -1);
    const [[logLikelihood, greedy]] = (JSON.parse(expected[i]!) as { resps: [[number, number]] }).resps;
    assert.ok(Math.abs(scored.reduce((sum, x) => sum + x, 0) - logLikelihood) < 1e-3, `doc ${i}`);
    const isGreedy = scored.every((x, at) => x === Math.max(...Object.values(tops![context.length + at]!)));
    assert.equal(isGreedy, greedy === 1, `doc ${i}`);
  }
});

test("a client that leaves before its answer frees its place", async () => {
  const params = { model: "ckpt_slow", prompt: [1], temperature: 1, seed: 1 };
  await client.completions.create({ ...params, max_tokens: 1 });
  const controller = new AbortController();
  const left = client.completions.create({ ...params, max_tokens: 19_000 }, { signal: controller.signal });
  setTimeout(() => controller.abort(), 300);
  await assert.rejects(left);
  const next = await client.completions.create({ ...params, max_tokens: 2 }, { timeout: 5000 });
  assert.equal(next.usage!.completion_tokens, 2);
});

test("a checkpoint deleted while warm is unknown at once and leaves the memory", async () => {
  const params = { model: "ckpt_slow", prompt: [1], max_tokens: 1 };
  await client.completions.create(params);
  assert.ok(server.pool.warm().includes("ckpt_slow"));
  server.checkpoints.delete("ckpt_slow");
  server.pool.drop(["ckpt_slow"]);
  await assert.rejects(client.completions.create(params), (error) => error instanceof OpenAI.NotFoundError);
  assert.ok(!server.pool.warm().includes("ckpt_slow"));
});
