/** Inference over HTTP, with OpenAI's own client, on a listening app and real model processes. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI, { APIError, BadRequestError, NotFoundError } from "openai";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";

const spoken = tinyCheckpoint({ id: "ckpt_spoken", seed: 3 });
const silent = tinyCheckpoint({ id: "ckpt_silent", seed: 3, bytes: false });
/** Whose text does not end before a test has done something. */
const endless = tinyCheckpoint({
  ...{ id: "ckpt_endless", bytes: false },
  config: { maxPositionEmbeddings: 20_000, eosTokenIds: [] },
});
const context = spoken.checkpoint.manifest.config.maxPositionEmbeddings;
let server: InferenceServer;
let client: OpenAI;

before(async () => {
  server = await startInferenceServer([spoken.checkpoint, silent.checkpoint, endless.checkpoint], {
    names: { ckpt_spoken: "spoken" },
  });
  client = new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
after(async () => {
  await server.close();
  spoken.remove();
  endless.remove();
  silent.remove();
});

type Params = OpenAI.CompletionCreateParamsNonStreaming;
const complete = (params: Partial<Params> = {}): Promise<OpenAI.Completion> =>
  client.completions.create({ model: "spoken", prompt: "Hello", max_tokens: 12, temperature: 0.8, seed: 4, ...params });

/** The text's choice. */
function only(completion: OpenAI.Completion): OpenAI.CompletionChoice {
  assert.equal(completion.choices.length, 1);
  return completion.choices[0]!;
}

async function post(path: string, body: unknown): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await fetch(server.url + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

test("models are listed and found by id and by name", async () => {
  const list = await client.models.list();
  assert.deepEqual(
    list.data.map((model) => model.id),
    ["ckpt_spoken", "ckpt_silent", "ckpt_endless"],
  );
  const model = await client.models.retrieve("spoken");
  assert.deepEqual([model.id, model.object, model.created], ["ckpt_spoken", "model", 1_700_000_000]);
});

test("a client that asks once is told of hundreds of models, and of all by asking on", async () => {
  const { checkpoints } = server;
  const [first] = [...checkpoints.values()];
  const own = [...checkpoints.keys()];
  const more = Array.from({ length: 250 }, (_, i) => `ckpt_more${i}`);
  for (const id of more) checkpoints.set(id, { ...first!, id });
  const all = [...own, ...more];
  assert.deepEqual(
    (await client.models.list()).data.map(({ id }) => id),
    all,
  );
  const seen: string[] = [];
  for (let after: string | null = ""; after !== null;) {
    const query = `limit=120${after === "" ? "" : `&after=${after}`}`;
    const page = (await (await fetch(`${server.url}/v1/models?${query}`)).json()) as {
      data: { id: string }[];
      next: string | null;
    };
    seen.push(...page.data.map(({ id }) => id));
    after = page.next;
  }
  assert.deepEqual(seen, all);
  for (const id of more) checkpoints.delete(id);
});

test("a completion is reproducible by its seed and counts its tokens", async () => {
  const first = await complete();
  const again = await complete();
  assert.equal(only(first).text, only(again).text);
  assert.equal(first.object, "text_completion");
  assert.notEqual(first.id, again.id);
  const { prompt_tokens, completion_tokens, total_tokens } = first.usage!;
  assert.deepEqual([prompt_tokens, completion_tokens, total_tokens], [6, 12, 18]);
  assert.equal(only(first).finish_reason, "length");
  assert.equal(only(first).logprobs, null);
  const texts = await Promise.all([5, 6, -7].map(async (seed) => only(await complete({ seed })).text));
  assert.equal(new Set([only(first).text, ...texts]).size, 4);
});

test("a stream gives the same text, chunk by chunk, and its usage", async () => {
  const whole = await complete();
  const stream = await client.completions.create({
    model: "spoken",
    prompt: "Hello",
    max_tokens: 12,
    temperature: 0.8,
    seed: 4,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  const finishes: string[] = [];
  let usage: unknown = null;
  let chunks = 0;
  for await (const chunk of stream) {
    chunks++;
    text += chunk.choices[0]?.text ?? "";
    if (chunk.choices[0]?.finish_reason) finishes.push(chunk.choices[0].finish_reason);
    if (chunk.usage) usage = chunk.usage;
  }
  assert.equal(text, only(whole).text);
  assert.ok(chunks > 3);
  assert.deepEqual(finishes, ["length"]);
  assert.deepEqual(usage, whole.usage);
});

test("a stream on the wire is data lines ended by [DONE]", async () => {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model: "spoken", prompt: "Hi", max_tokens: 2, temperature: 0, stream: true }),
  });
  assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/);
  const lines = (await response.text()).split("\n\n").filter((line) => line !== "");
  assert.ok(lines.every((line) => line.startsWith("data: ")));
  assert.equal(lines.at(-1), "data: [DONE]");
  const chunk = JSON.parse(lines[0]!.slice(6)) as Record<string, unknown>;
  assert.equal(chunk["object"], "text_completion");
  assert.ok(!("usage" in chunk));
});

test("every form of prompt is taken, and choices are numbered prompt by prompt", async () => {
  const ids = [256, ...Buffer.from("Hello")];
  const byText = only(await complete()).text;
  assert.equal(only(await complete({ prompt: ids })).text, byText, "a text gets BOS, ids are taken as they are");
  const several = await complete({ prompt: ["Hello", "Bye"], n: 2 });
  assert.deepEqual(
    several.choices.map((choice) => choice.index),
    [0, 1, 2, 3],
  );
  assert.equal(several.choices[0]!.text, byText);
  assert.notEqual(several.choices[1]!.text, byText);
  const lists = await complete({ prompt: [ids, [256, 1, 2]] as unknown as number[] });
  assert.equal(lists.choices[0]!.text, byText);
  assert.equal(lists.usage!.prompt_tokens, 6 + 3);
});

test("echo with logprobs scores the prompt: the form that lm-evaluation-harness reads", async () => {
  const prompt = [
    [256, 72, 101, 108],
    [256, 1],
  ];
  const { choices } = await complete({
    prompt: prompt as unknown as number[],
    max_tokens: 1,
    temperature: 0,
    logprobs: 1,
    echo: true,
  });
  for (const [index, ids] of prompt.entries()) {
    const logprobs = choices[index]!.logprobs!;
    for (const list of [logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset]) {
      assert.equal(list!.length, ids.length + 1);
    }
    assert.equal(logprobs.token_logprobs![0], null);
    assert.equal(logprobs.top_logprobs![0], null);
    for (let i = 1; i <= ids.length; i++) {
      const value = logprobs.token_logprobs![i]!;
      assert.ok(value < 0 && Object.values(logprobs.top_logprobs![i]!).includes(value));
    }
    const last = Object.values(logprobs.top_logprobs![ids.length]!);
    assert.equal(Math.max(...last), logprobs.token_logprobs![ids.length], "greedy by exact equality");
  }
  assert.ok(choices[0]!.text.startsWith("Hel"));
});

test("a prompt of context + 1 tokens is scored whole and has one token more", async () => {
  const prompt = Array.from({ length: context + 1 }, (_, i) => (i * 37) % 256);
  const choice = only(await complete({ prompt, max_tokens: 1, temperature: 0, logprobs: 1, echo: true }));
  assert.equal(choice.logprobs!.token_logprobs!.length, context + 2);
  const scored = only(await complete({ prompt, max_tokens: 0, logprobs: 1, echo: true }));
  assert.deepEqual(scored.logprobs!.token_logprobs, choice.logprobs!.token_logprobs!.slice(0, -1));
});

test("the entries of a stream are those of the whole answer", async () => {
  const params = { model: "spoken", prompt: "Hello", max_tokens: 6, temperature: 0, logprobs: 2, echo: true } as const;
  const whole = only(await client.completions.create(params)).logprobs!;
  const parts = { tokens: [] as string[], text_offset: [] as number[], token_logprobs: [] as (number | null)[] };
  for await (const chunk of await client.completions.create({ ...params, stream: true })) {
    for (const name of ["tokens", "text_offset", "token_logprobs"] as const) {
      (parts[name] as unknown[]).push(...(chunk.choices[0]?.logprobs?.[name] ?? []));
    }
  }
  assert.deepEqual(parts, {
    tokens: whole.tokens,
    text_offset: whole.text_offset,
    token_logprobs: whole.token_logprobs,
  });
});

test("a stop text ends the completion before it", async () => {
  const { text } = only(await complete({ max_tokens: 20 }));
  const characters = [...text];
  assert.ok(characters.length > 6);
  const stop = characters.slice(4, 6).join("");
  const cut = only(await complete({ max_tokens: 20, stop }));
  assert.equal(cut.text, text.slice(0, text.indexOf(stop)));
  assert.equal(cut.finish_reason, "stop");
});

test("a checkpoint without a tokenizer takes ids, names tokens token_id:N, and its text is empty", async () => {
  const prompt = [256, 72, 101];
  const choice = only(
    await complete({ model: "ckpt_silent", prompt, logprobs: 1, echo: true, temperature: 0, max_tokens: 2 }),
  );
  assert.equal(choice.text, "");
  assert.deepEqual(choice.logprobs!.tokens!.slice(0, 3), ["token_id:256", "token_id:72", "token_id:101"]);
  assert.ok(Object.keys(choice.logprobs!.top_logprobs![1]!).every((key) => key.startsWith("token_id:")));
  const spokenChoice = only(await complete({ prompt, logprobs: 1, echo: true, temperature: 0, max_tokens: 2 }));
  assert.deepEqual(choice.logprobs!.token_logprobs, spokenChoice.logprobs!.token_logprobs);
  await assert.rejects(complete({ model: "ckpt_silent" }), /must be token ids: ckpt_silent has no tokenizer/);
  await assert.rejects(complete({ model: "ckpt_silent", prompt, stop: "x" }), /no tokenizer/);
});

for (const [what, change, kind, message, param] of [
  ["an unknown model", { model: "nobody" }, NotFoundError, /nobody/, null],
  [
    "a prompt longer than the context",
    { prompt: "x".repeat(context + 1) },
    BadRequestError,
    new RegExp(`${context + 2} tokens.*at most ${context}`),
    "prompt",
  ],
  ["an id outside the vocabulary", { prompt: [1, 260] }, BadRequestError, /260.*0 to 259/, "prompt.1"],
  ["a field that is not honoured", { best_of: 2 }, BadRequestError, /best_of/, null],
  ["a temperature out of range", { temperature: 3 }, BadRequestError, /temperature/, "temperature"],
  [
    "more choices than one request may ask for",
    { prompt: Array<string>(256).fill("a"), n: 16 },
    BadRequestError,
    /4096 choices/,
    "n",
  ],
] as const) {
  test(`the client is told of ${what}, with status and message`, async () => {
    for (const stream of [false, true]) {
      const run = client.completions.create({
        model: "spoken",
        prompt: "Hello",
        ...(change as Partial<Params>),
        stream,
      } as Params);
      await assert.rejects(run, (error) => {
        assert.ok(error instanceof kind, String(error));
        assert.match(error.message, message);
        if (param !== null) assert.equal(error.param, param);
        assert.ok(error.requestID);
        return true;
      });
    }
  });
}

test("an error in mid-stream is raised by the client", async () => {
  const stream = await client.completions.create({
    model: "ckpt_endless",
    prompt: [1, 2],
    max_tokens: 10_000,
    logprobs: 0,
    stream: true,
  });
  const run = (async () => {
    for await (const chunk of stream) if (chunk.choices.length > 0) await server.pool.close();
  })();
  await assert.rejects(run, (error) => error instanceof APIError && /unloaded/.test(error.message));
  await restart();
});

async function restart(): Promise<void> {
  await server.close();
  server = await startInferenceServer([spoken.checkpoint, silent.checkpoint, endless.checkpoint], {
    names: { ckpt_spoken: "spoken" },
  });
  client = new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries: 0 });
}

test("clients that leave in mid-stream free their places, and the others' texts are unharmed", async () => {
  const alone = await Promise.all([1, 2, 3].map(async (seed) => only(await complete({ seed, max_tokens: 30 })).text));
  const runs = Array.from({ length: 30 }, async (_, i) => {
    if (i % 2 === 0) return only(await complete({ seed: 1 + (i % 3), max_tokens: 30 })).text;
    const params = { model: "spoken", prompt: "Hello", max_tokens: 30, temperature: 0.8, seed: 1 + (i % 3) };
    const stream = await client.completions.create({ ...params, stream: true });
    for await (const chunk of stream) if (chunk.choices.length > 0) break;
    return null;
  });
  for (const [i, text] of (await Promise.all(runs)).entries()) if (text !== null) assert.equal(text, alone[i % 3]);
});

test("tokenizer routes: text to ids and back, and what the tokenizer says of itself", async () => {
  const model = "spoken";
  const plain = await post("/tokenize", { model, prompt: "h\u00e9", add_special_tokens: false });
  assert.deepEqual(plain.body, { tokens: [104, 195, 169], count: 3, max_model_len: context, token_strs: null });
  assert.deepEqual((await post("/tokenize", { model, prompt: "h" })).body["tokens"], [256, 104]);
  assert.deepEqual((await post("/detokenize", { model, tokens: [104, 195, 169] })).body, { prompt: "h\u00e9" });
  const info = (await (await fetch(`${server.url}/tokenizer_info?model=spoken`)).json()) as Record<string, unknown>;
  assert.equal(info["tokenizer_class"], null, "bytes have no class of transformers");
  assert.deepEqual([info["bos_token"], info["eos_token"], info["vocab_size"]], ["<|bos|>", "<|eos|>", 258]);
  const unnamed = await post("/tokenize", { prompt: "h" });
  assert.equal(unnamed.status, 400);
  const without = await post("/tokenize", { model: "ckpt_silent", prompt: "h" });
  assert.deepEqual([without.status, without.body["code"]], [422, "unprocessable"]);
});

test("with a single checkpoint the tokenizer routes need no model, as harnesses ask", async () => {
  for (const { checkpoint } of [silent, endless]) server.checkpoints.delete(checkpoint.id);
  const { status, body } = await post("/tokenize", { prompt: "test", add_special_tokens: false });
  assert.deepEqual([status, body["tokens"]], [200, [116, 101, 115, 116]]);
  for (const { checkpoint } of [silent, endless]) server.checkpoints.set(checkpoint.id, checkpoint);
});
