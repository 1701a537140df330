/**
 * Prompts that begin alike, over HTTP: what was read for one is not read again for another, usage and metrics tell of
 * it, and no answer differs in a bit from that of a server that keeps nothing.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { metric } from "../../../bench/lib/inferenceLoad.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";
import { chatCheckpoint } from "../../helpers/chatCheckpoint.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const tiny = tinyCheckpoint({ id: "ckpt_tiny", seed: 3, config: { eosTokenIds: [], maxPositionEmbeddings: 600 } });
const chatty = chatCheckpoint("ckpt_chatty");
let keeping: InferenceServer;
let plain: InferenceServer;
let client: OpenAI;
let reference: OpenAI;
const clientOf = ({ url }: InferenceServer): OpenAI =>
  new OpenAI({ apiKey: "none", baseURL: `${url}/v1`, maxRetries: 0 });

before(async () => {
  const checkpoints = [tiny.checkpoint, chatty.checkpoint];
  keeping = await startInferenceServer(checkpoints);
  // Room for one context and no more.
  plain = await startInferenceServer(checkpoints, { limits: { keepPrompts: false, maxCacheBytes: 1 } });
  [client, reference] = [clientOf(keeping), clientOf(plain)];
});
after(async () => {
  await keeping.close();
  await plain.close();
  for (const { remove } of [tiny, chatty]) remove();
});

const text = "What was read for one request is not read again for the next. ".repeat(3);
const settings = { model: "ckpt_tiny", max_tokens: 12, temperature: 0.9, seed: 4, logprobs: 3 } as const;

/** What the answers say, to the last bit of each number. */
const said = ({ choices }: OpenAI.Completion) => choices;
const cached = ({ usage }: { usage?: OpenAI.CompletionUsage | null }) => usage?.prompt_tokens_details?.cached_tokens;

test("eight choices of one prompt read it once and are what eight requests get", async () => {
  const counts = async () => [
    await metric(keeping.url, "cambium_serving_prompt_tokens_total"),
    await metric(keeping.url, "cambium_serving_cached_tokens_total"),
  ];
  const before = await counts();
  const prompt = `one: ${text}`;
  const all = await client.completions.create({ ...settings, prompt, n: 8 });
  const tokens = all.usage!.prompt_tokens;
  assert.ok(tokens > 100);
  assert.equal(cached(all), 0, "none of it was there before");
  const told = (await counts()).map((count, i) => count - before[i]!);
  assert.deepEqual(told, [8 * tokens, 7 * (tokens - 1)]);
  for (const [i, choice] of said(all).entries()) {
    const alone = await reference.completions.create({ ...settings, prompt, seed: settings.seed + i });
    assert.deepEqual({ ...choice, index: 0 }, said(alone)[0]);
  }
});

test("a prompt that was read before is not read again, whole or as a beginning, and usage says so", async () => {
  const first = await client.completions.create({ ...settings, prompt: text });
  const again = await client.completions.create({ ...settings, prompt: text });
  const tokens = first.usage!.prompt_tokens;
  assert.deepEqual([cached(first), cached(again)], [0, tokens - 1]);
  assert.deepEqual(said(again), said(first));
  const longer = { ...settings, prompt: `${text}Or is it?` };
  const next = await client.completions.create(longer);
  assert.equal(cached(next), tokens);
  assert.deepEqual(said(next), said(await reference.completions.create(longer)));
  const streamed = { ...longer, stream: true, stream_options: { include_usage: true } } as const;
  let usage: OpenAI.CompletionUsage | null = null;
  for await (const chunk of await client.completions.create(streamed)) usage = chunk.usage ?? usage;
  assert.equal(cached({ usage }), next.usage!.prompt_tokens - 1);
});

test("caches of bfloat16 give nearly the same probabilities, and the same bits whatever was kept", async () => {
  const half = await startInferenceServer([tiny.checkpoint], { limits: { cacheDtype: "BF16" } });
  try {
    const request = { ...settings, prompt: text, temperature: 0 };
    const answers = [
      await clientOf(half).completions.create(request),
      await clientOf(half).completions.create(request),
    ];
    assert.deepEqual(said(answers[1]!), said(answers[0]!));
    assert.ok(cached(answers[1]!)! > 100);
    const logprobs = [answers[0]!, await reference.completions.create(request)].map(
      ({ choices }) => choices[0]!.logprobs!.token_logprobs![0]!,
    ) as [number, number];
    assert.notEqual(logprobs[0], logprobs[1]);
    assert.ok(Math.abs(logprobs[0] - logprobs[1]) < 0.01, String(logprobs));
  } finally {
    await half.close();
  }
});

test("of several prompts each counts what it found, and an echo with log-probabilities finds nothing", async () => {
  const known = `two: ${text}`;
  const tokens = (await client.completions.create({ ...settings, prompt: known })).usage!.prompt_tokens;
  const both = { ...settings, prompt: [known, `three: ${text}`], n: 2 };
  const answer = await client.completions.create(both);
  assert.equal(cached(answer), tokens - 1);
  assert.deepEqual(said(answer), said(await reference.completions.create(both)));
  const echo = { ...settings, prompt: known, echo: true };
  const echoed = await client.completions.create(echo);
  assert.equal(cached(echoed), 0);
  assert.deepEqual(said(echoed), said(await reference.completions.create(echo)));
  const unscored = { ...echo, logprobs: null };
  const whole = await client.completions.create(unscored);
  assert.equal(cached(whole), tokens - 1);
  assert.deepEqual(said(whole), said(await reference.completions.create(unscored)));
});

test("choices that echo a prompt with its log-probabilities read it once and are what requests of their own get", async () => {
  // Ten: more than are generated at once.
  const n = 10;
  const read = async () =>
    (await metric(keeping.url, "cambium_serving_prompt_tokens_total")) -
    (await metric(keeping.url, "cambium_serving_cached_tokens_total"));
  const longest = Array.from({ length: 601 }, (_, i) => (i * i) % 250);
  for (const [what, prompt, max_tokens, others] of [
    ["a text", `five: ${text}`, 12, n - 1],
    ["a prompt of one token more than the context", longest, 12, n - 1],
    ["a prompt after which nothing is wanted", `six: ${text}`, 0, 0],
  ] as const) {
    const asked = { ...settings, prompt: prompt as string | number[], max_tokens, echo: true };
    const before = await read();
    const all = await client.completions.create({ ...asked, n });
    // The last token of a prompt is always computed.
    assert.equal((await read()) - before, all.usage!.prompt_tokens + others, what);
    const parts: OpenAI.CompletionChoice["logprobs"][][] = Array.from({ length: n }, () => []);
    for await (const { choices } of await client.completions.create({ ...asked, n, stream: true })) {
      for (const { index, logprobs } of choices) parts[index]!.push(logprobs);
    }
    for (const [i, choice] of said(all).entries()) {
      const [alone] = said(await reference.completions.create({ ...asked, seed: settings.seed + i }));
      assert.deepEqual({ ...choice, index: 0 }, alone, `${what}, choice ${i}`);
      const streamed = parts[i]!.flatMap((part) => part?.token_logprobs ?? []);
      assert.deepEqual(streamed, alone!.logprobs!.token_logprobs, `${what}, choice ${i} as a stream`);
    }
  }
});

test("a conversation that goes on finds its past, the model's answer included", async () => {
  const ask = (messages: OpenAI.ChatCompletionMessageParam[], of: OpenAI) =>
    of.chat.completions.create({ model: "ckpt_chatty", messages, max_completion_tokens: 20, temperature: 0, seed: 1 });
  const said: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "Tell me of trees and their rings." }];
  const first = await ask(said, client);
  assert.equal(cached(first), 0);
  said.push({ role: "assistant", content: first.choices[0]!.message.content });
  said.push({ role: "user", content: "And?" });
  const second = await ask(said, client);
  assert.ok(cached(second)! >= first.usage!.prompt_tokens, `${cached(second)} tokens`);
  assert.deepEqual(second.choices, (await ask(said, reference)).choices);
});

test("a server told to keep nothing keeps nothing", async () => {
  for (let i = 0; i < 2; i++) {
    assert.equal(cached(await reference.completions.create({ ...settings, prompt: `four: ${text}` })), 0);
  }
});

test("where caches have room for one context, choices of a long prompt share its pages and run together", async () => {
  const prompt = Array.from({ length: 500 }, (_, i) => (i * 7 + i * i) % 250);
  const asked = { ...settings, prompt, max_tokens: 12, n: 6 };
  const alone = await client.completions.create(asked);
  const steps = async () => [
    await metric(plain.url, "cambium_serving_batch_sequences_sum"),
    await metric(plain.url, "cambium_serving_batch_sequences_count"),
  ];
  const before = await steps();
  assert.deepEqual(said(await reference.completions.create(asked)), said(alone));
  const [sequences = 0, count = 0] = (await steps()).map((value, i) => value - before[i]!);
  // Of 640 positions 448 are shared, and each choice has 64 of its own. One after the other it would be one a step.
  assert.ok(sequences > 1.5 * count, `${sequences} sequences in ${count} steps`);
});
