/**
 * What /v1/completions promises to machines (lm-evaluation-harness first of all), a clause a test, over HTTP with
 * OpenAI's own client. The tokenizer has two ids for each of 32 letters, its own and a byte's, so that texts collide;
 * a twin with the same weights and no tokenizer shows every id by its number.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI, { APIError, BadRequestError } from "openai";
import { chatCheckpoint, chatTokenizerJson } from "../../helpers/chatCheckpoint.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";

/** Ids 0 to 31 are the bytes of @ to _, whose characters have ids 64 to 95. */
const doubled = 32;
const firstDoubled = 64;
const byteTokens = Array.from({ length: doubled }, (_, id) => {
  return [`<0x${(firstDoubled + id).toString(16).toUpperCase()}>`, id] as const;
});
const spoken = chatCheckpoint("ckpt_spoken", { "tokenizer.json": JSON.stringify(chatTokenizerJson(byteTokens)) });
const twin = chatCheckpoint("ckpt_twin", { "tokenizer.json": null, "tokenizer_config.json": null });
const context = 512;
let server: InferenceServer;
let client: OpenAI;

before(async () => {
  server = await startInferenceServer([spoken.checkpoint, twin.checkpoint]);
  client = new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
after(async () => {
  await server.close();
  spoken.remove();
  twin.remove();
});

type Params = OpenAI.CompletionCreateParamsNonStreaming;
const idsOf = (length: number, step = 37): number[] => Array.from({ length }, (_, i) => 32 + ((i * step + i * i) % 95));
const complete = (params: Partial<Params> = {}): Promise<OpenAI.Completion> =>
  client.completions.create({ model: "ckpt_spoken", prompt: idsOf(9), max_tokens: 1, temperature: 0, ...params });

async function logprobsOf(params: Partial<Params>): Promise<Required<OpenAI.CompletionChoice.Logprobs>> {
  const { choices } = await complete({ logprobs: 1, echo: true, ...params });
  return choices[0]!.logprobs as Required<OpenAI.CompletionChoice.Logprobs>;
}

test("prompt: a text, texts, ids and lists of ids are the same request where the ids are the same", async () => {
  const texts = ["Hello", "Good bye"];
  const ids = texts.map((text) => [130, ...Buffer.from(text)]);
  const asked = { logprobs: 5, echo: true, max_tokens: 4 };
  const one = (await complete({ ...asked, prompt: texts[0]! })).choices[0]!.logprobs;
  const both = (await complete({ ...asked, prompt: texts })).choices.map(({ logprobs }) => logprobs);
  const byIds = (await complete({ ...asked, prompt: ids as unknown as number[] })).choices.map(
    ({ logprobs }) => logprobs,
  );
  assert.deepEqual((await complete({ ...asked, prompt: ids[0]! })).choices[0]!.logprobs, one);
  assert.deepEqual([both[0], both], [one, byIds]);
});

test("echo, logprobs 0 to 20: the first entry is null, there are as many alternatives as asked for, 21 are refused", async () => {
  for (const logprobs of [0, 1, 5, 20]) {
    const found = await logprobsOf({ model: "ckpt_twin", logprobs, max_tokens: 2 });
    assert.equal(found.token_logprobs.length, 9 + 2);
    assert.deepEqual([found.token_logprobs[0], found.top_logprobs[0]], [null, null]);
    for (const [i, top] of found.top_logprobs.entries()) {
      if (i === 0) continue;
      // The token itself is there, among the alternatives or beside them.
      const size = Object.keys(top).length;
      assert.ok(size === logprobs || size === logprobs + 1, `${size} alternatives at ${i}, ${logprobs} asked for`);
      assert.ok(found.tokens[i]! in top);
    }
  }
  assert.equal((await complete({ logprobs: null })).choices[0]!.logprobs, null);
  for (const logprobs of [21, -1, 1.5]) await assert.rejects(complete({ logprobs }), BadRequestError);
});

test("the chosen token's value is one float in both places, so that greedy can be told by equality", async () => {
  const prompt = idsOf(60);
  const found = await logprobsOf({ model: "ckpt_twin", prompt, logprobs: 3, max_tokens: 3 });
  let greedy = 0;
  for (let i = 1; i < found.tokens.length; i++) {
    const [token, value, top] = [found.tokens[i]!, found.token_logprobs[i]!, found.top_logprobs[i]!];
    assert.ok(Object.is(top[token], value), `position ${i}: ${value} and ${top[token]}`);
    assert.ok(Object.is(Math.fround(value), value) && value <= 0);
    const best = Math.max(...Object.values(top));
    if (i >= prompt.length) assert.equal(value, best, "temperature 0 takes the most probable");
    greedy += value === best ? 1 : 0;
  }
  assert.ok(greedy >= 3 && greedy < found.tokens.length - 1);
});

test("of two ids with one text the larger log-probability stays under it", async () => {
  const asked = { prompt: idsOf(60, 11), logprobs: 20, max_tokens: 0 };
  const byText = await logprobsOf(asked);
  const byId = await logprobsOf({ ...asked, model: "ckpt_twin" });
  assert.deepEqual(byText.token_logprobs, byId.token_logprobs);
  const textOf = (name: string): string => {
    const id = Number(name.slice("token_id:".length));
    if (id < doubled) return String.fromCharCode(firstDoubled + id);
    return id < 127 ? String.fromCharCode(id) : `other:${id}`;
  };
  let collisions = 0;
  for (let i = 1; i < byId.tokens.length; i++) {
    const expected = new Map<string, number>();
    for (const [name, value] of Object.entries(byId.top_logprobs[i]!)) {
      const text = textOf(name);
      if (expected.has(text)) collisions += 1;
      expected.set(text, Math.max(expected.get(text) ?? -Infinity, value));
    }
    const shown = byText.top_logprobs[i]!;
    assert.equal(Object.keys(shown).length, expected.size, `position ${i}`);
    for (const [text, value] of expected) if (!text.startsWith("other:")) assert.equal(shown[text], value, text);
  }
  assert.ok(collisions > 20, `only ${collisions} collisions were seen`);
});

test("a prompt of max_length + 1 tokens answers prompt + 1 entries; one more token is refused", async () => {
  const prompt = idsOf(context + 1);
  const found = await logprobsOf({ prompt });
  const lists = [found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset];
  assert.deepEqual(
    lists.map((list) => list.length),
    lists.map(() => context + 2),
  );
  assert.equal(
    found.token_logprobs.findIndex((value, i) => i > 0 && !(value <= 0)),
    -1,
  );
  const window = await logprobsOf({ prompt: prompt.slice(0, -1) });
  assert.deepEqual(window.token_logprobs.slice(0, -1), found.token_logprobs.slice(0, context));
  await assert.rejects(logprobsOf({ prompt: idsOf(context + 2) }), /at most 513/);
  await assert.rejects(complete({ prompt }), /at most 512/, "without echo nothing needs the extra token");
});

test("max_tokens 0 scores and makes nothing, with the very numbers of max_tokens 1", async () => {
  const [none, one] = [await logprobsOf({ max_tokens: 0 }), await logprobsOf({ max_tokens: 1 })];
  assert.deepEqual(none.token_logprobs, one.token_logprobs.slice(0, -1));
  assert.deepEqual(none.top_logprobs, one.top_logprobs.slice(0, -1));
  const { usage, choices } = await complete({ max_tokens: 0 });
  assert.deepEqual([usage?.completion_tokens, choices[0]!.text, choices[0]!.finish_reason], [0, "", "length"]);
});

test("n choices differ, the first is that of n 1, and each is repeatable by its seed", async () => {
  const asked = { temperature: 1, seed: 5, max_tokens: 12, n: 4 };
  const texts = async (change: Partial<Params> = {}): Promise<string[]> =>
    (await complete({ ...asked, ...change })).choices.map(({ text }) => text);
  const four = await texts();
  assert.equal(new Set(four).size, 4);
  assert.deepEqual(await texts(), four);
  assert.deepEqual(await texts({ n: 1 }), four.slice(0, 1));
  assert.notDeepEqual(await texts({ seed: 6 }), four);
  await assert.rejects(complete({ n: 0 }), BadRequestError);
  await assert.rejects(complete({ n: 17 }), BadRequestError);
});

test("temperature 0 is greedy whatever the seed, a tiny top_p too, and both are refused out of range", async () => {
  const text = async (change: Partial<Params>): Promise<string> =>
    (await complete({ max_tokens: 12, ...change })).choices[0]!.text;
  const greedy = await text({});
  assert.equal(await text({ seed: 9 }), greedy);
  assert.equal(await text({ temperature: 1, seed: 9, top_p: 1e-9 }), greedy);
  assert.notEqual(await text({ temperature: 1, seed: 9 }), greedy);
  for (const change of [{ temperature: -0.1 }, { temperature: 2.1 }, { top_p: 0 }, { top_p: 1.1 }])
    await assert.rejects(complete(change), BadRequestError);
});

test("stop: a text or several end the choice before them; streamed or not, they are the same", async () => {
  const asked = { max_tokens: 40, temperature: 1, seed: 3 };
  const { text } = (await complete(asked)).choices[0]!;
  const [early, late] = [text.slice(8, 10), text.slice(20, 22)];
  for (const stop of [early, [late, early, "never said"]]) {
    const end = text.indexOf(early);
    const { choices } = await complete({ ...asked, stop });
    assert.deepEqual([choices[0]!.text, choices[0]!.finish_reason], [text.slice(0, end), "stop"]);
    let streamed = "";
    for await (const chunk of await client.completions.create({
      ...{ model: "ckpt_spoken", prompt: idsOf(9), stream: true, stop },
      ...asked,
    }))
      streamed += chunk.choices[0]?.text ?? "";
    assert.equal(streamed, text.slice(0, end));
  }
  await assert.rejects(complete({ stop: "" }), BadRequestError);
});

test("stream: chunks add up to the whole of every choice, and the last tells the usage", async () => {
  const asked = { model: "ckpt_spoken", prompt: [idsOf(5), idsOf(7)] as unknown as number[], n: 2 };
  const params = { ...asked, max_tokens: 9, temperature: 1, seed: 2, logprobs: 2, echo: true };
  const whole = await client.completions.create(params);
  const parts = whole.choices.map(() => ({ text: "", values: [] as (number | null)[], finish: "" }));
  let usage: unknown = null;
  for await (const chunk of await client.completions.create({
    ...params,
    ...{ stream: true, stream_options: { include_usage: true } },
  })) {
    assert.equal(usage, null, "nothing comes after the usage");
    if (chunk.choices.length === 0) usage = chunk.usage;
    for (const { index, text, logprobs, finish_reason: finish } of chunk.choices) {
      parts[index]!.text += text;
      parts[index]!.values.push(...(logprobs?.token_logprobs ?? []));
      parts[index]!.finish ||= finish ?? "";
    }
  }
  assert.deepEqual(usage, whole.usage);
  const ofWhole = whole.choices.map(({ text, logprobs, finish_reason: finish }) => {
    return { text, values: logprobs!.token_logprobs, finish };
  });
  assert.deepEqual(parts, ofWhole);
});

test("whatever would not be honoured is refused with 400 and its name, null or not, streamed or not", async () => {
  const fields: Record<string, unknown> = {
    ...{ suffix: "end", best_of: 2, logit_bias: { "5": 1 }, presence_penalty: 0.5, frequency_penalty: 0.5 },
    ...{ user: "me", top_k: 5, min_p: 0.1, repetition_penalty: 1.1, ignore_eos: true, prompt_logprobs: 1 },
    ...{ stop_token_ids: [3], guided_json: {}, min_tokens: 2, skip_special_tokens: false, response_format: {} },
  };
  for (const [name, wanted] of Object.entries(fields)) {
    for (const [stream, value] of [
      [false, wanted],
      [true, wanted],
      [false, null],
    ]) {
      const run = client.completions.create({
        ...{ model: "ckpt_spoken", prompt: "Hi", stream, [name]: value },
      } as unknown as Params);
      await assert.rejects(run, (error) => {
        assert.ok(error instanceof APIError && error.status === 400, `${name}: ${String(error)}`);
        assert.match(error.message, new RegExp(name));
        return true;
      });
    }
  }
});

test("a field that is null is one that is not given, in both kinds of completion", async () => {
  const asked = { model: "ckpt_spoken", prompt: "Hi", seed: 3 };
  const nulls = { max_tokens: null, temperature: null, top_p: null, n: null, echo: null, stream: null };
  const more = { stop: null, logprobs: null, stream_options: null };
  const given = await client.completions.create({ ...asked, ...nulls, ...more });
  assert.deepEqual(given.choices, (await client.completions.create(asked)).choices);
  assert.equal(given.usage?.completion_tokens, 16, "as many as are made unless told");
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "Hi" }];
  const chat = { model: "ckpt_spoken", messages, seed: 3 };
  const unset = { temperature: null, top_p: null, n: null, logprobs: null, stream: null, max_tokens: null };
  const answer = await client.chat.completions.create({ ...chat, ...unset, max_completion_tokens: 9 });
  const plain = await client.chat.completions.create({ ...chat, max_completion_tokens: 9 });
  assert.deepEqual(answer.choices, plain.choices);
  for (const required of ["model", "prompt"]) {
    const run = client.completions.create({ ...asked, [required]: null } as unknown as Params);
    await assert.rejects(run, (error) => error instanceof BadRequestError && error.param === required);
  }
});

test("stream_options without a stream are refused, not ignored", async () => {
  const options = { model: "ckpt_spoken", stream: false, stream_options: { include_usage: true } } as const;
  for (const run of [
    client.completions.create({ ...options, prompt: "Hi" }),
    client.chat.completions.create({ ...options, messages: [{ role: "user", content: "Hi" }] }),
  ]) {
    await assert.rejects(run, (error) => error instanceof BadRequestError && error.param === "stream_options");
  }
});
