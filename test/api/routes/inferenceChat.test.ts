/** Chat over HTTP, with OpenAI's own client, through checkpoints' own templates; and the tokenizer routes beside it. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI, { APIError } from "openai";
import { chatCheckpoint, chatTokens } from "../../helpers/chatCheckpoint.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";

const chatty = chatCheckpoint("ckpt_chatty");
const bare = chatCheckpoint("ckpt_bare", { "tokenizer_config.json": JSON.stringify({ bos_token: "<s>" }) });
const byFile = chatCheckpoint("ckpt_file", { "chat_template.jinja": "{{ messages[0].content }}!" });
const hostile = chatCheckpoint("ckpt_hostile", { "chat_template.jinja": "{% for %}" });
const all = [chatty, bare, byFile, hostile];
let server: InferenceServer;
let client: OpenAI;

before(async () => {
  server = await startInferenceServer(all.map(({ checkpoint }) => checkpoint));
  client = new OpenAI({ apiKey: "none", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
after(async () => {
  await server.close();
  for (const { remove } of all) remove();
});

type Params = OpenAI.ChatCompletionCreateParamsNonStreaming;
const messages: Params["messages"] = [
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Yes?" },
  { role: "user", content: [{ type: "text", text: "Tell" }] },
];
const settings = { model: "ckpt_chatty", messages, max_completion_tokens: 12, temperature: 0.9, seed: 3 } as const;
const chat = (change: Partial<Params> = {}): Promise<OpenAI.ChatCompletion> =>
  client.chat.completions.create({ ...settings, ...change });

/** The conversation as the template writes it, in ids. */
function conversationIds(): number[] {
  const letters = (text: string): number[] => [...Buffer.from(text)];
  const turn = (role: "<|user|>" | "<|assistant|>", text: string): number[] => [
    chatTokens[role],
    ...letters(text),
    chatTokens["<|end|>"],
  ];
  const said = [...turn("<|user|>", "Hi"), ...turn("<|assistant|>", "Yes?"), ...turn("<|user|>", "Tell")];
  return [chatTokens["<s>"], ...said, chatTokens["<|assistant|>"]];
}

async function post(path: string, body: unknown): Promise<{ status: number; body: Record<string, unknown> }> {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(server.url + path, { method: "POST", headers, body: JSON.stringify(body) });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function refusal(run: Promise<unknown>): Promise<APIError> {
  return run.then(
    () => assert.fail("it should have been refused"),
    (error: unknown) => {
      assert.ok(error instanceof APIError, String(error));
      return error;
    },
  );
}

test("a chat is the completion of what the template writes, ids and special tokens included", async () => {
  const answer = await chat();
  const prompt = conversationIds();
  const completion = await client.completions.create({
    ...{ model: "ckpt_chatty", prompt, max_tokens: 12, temperature: 0.9, seed: 3 },
  });
  assert.equal(answer.object, "chat.completion");
  assert.deepEqual(answer.choices, [
    {
      index: 0,
      message: { role: "assistant", content: completion.choices[0]!.text, refusal: null },
      finish_reason: "length",
      logprobs: null,
    },
  ]);
  assert.deepEqual(answer.usage, {
    prompt_tokens: prompt.length,
    completion_tokens: 12,
    total_tokens: prompt.length + 12,
    prompt_tokens_details: { cached_tokens: 0 },
  });
});

test("a stream of several choices opens each with the role and gives the same words, log-probabilities and usage", async () => {
  const long = { n: 3, logprobs: true, top_logprobs: 2, max_completion_tokens: 40 } as const;
  const whole = await chat(long);
  assert.equal(new Set(whole.choices.map(({ message }) => message.content)).size, 3);
  const stream = await client.chat.completions.create({
    ...settings,
    ...long,
    ...{ stream: true, stream_options: { include_usage: true } },
  });
  const texts = ["", "", ""];
  const tokens: OpenAI.ChatCompletionTokenLogprob[][] = [[], [], []];
  const roles: string[] = [];
  let usage: unknown = null;
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    usage = chunk.usage ?? usage;
    const [choice] = chunk.choices;
    if (!choice) continue;
    if (choice.delta.role) roles.push(`${choice.index}: ${choice.delta.role}`);
    texts[choice.index] += choice.delta.content ?? "";
    tokens[choice.index]!.push(...(choice.logprobs?.content ?? []));
  }
  assert.deepEqual(
    texts,
    whole.choices.map(({ message }) => message.content),
  );
  assert.deepEqual(
    tokens,
    whole.choices.map(({ logprobs }) => logprobs!.content),
  );
  assert.deepEqual(roles.sort(), ["0: assistant", "1: assistant", "2: assistant"]);
  assert.deepEqual(usage, whole.usage);
});

test("log-probabilities have OpenAI's chat form, and are those of a completion", async () => {
  const { choices } = await chat({ logprobs: true, top_logprobs: 3, temperature: 0 });
  const { content } = choices[0]!.logprobs!;
  assert.equal(content!.length, 12);
  for (const { token, logprob, bytes, top_logprobs: top } of content!) {
    assert.deepEqual(bytes, token.startsWith("token_id:") ? null : [...Buffer.from(token)]);
    assert.equal(top.length, 3);
    assert.equal(top[0]!.logprob, logprob, "greedy: the chosen token is the most probable");
    assert.ok(top[0]!.logprob >= top[1]!.logprob && top[1]!.logprob >= top[2]!.logprob);
  }
  const completion = await client.completions.create({
    ...{ model: "ckpt_chatty", prompt: conversationIds(), max_tokens: 12, temperature: 0, logprobs: 3 },
  });
  assert.deepEqual(
    content!.map(({ logprob }) => logprob),
    completion.choices[0]!.logprobs!.token_logprobs,
  );
});

test("an answer ends at a token of generation_config.json, which is no part of it", async () => {
  const { choices } = await chat({ temperature: 0, logprobs: true });
  const tokens = choices[0]!.logprobs!.content!.map(({ token }) => token);
  const end = tokens.findIndex((token, i) => i > 1 && token.length === 1 && tokens.indexOf(token) === i);
  assert.ok(end > 1, `no token of its own among ${JSON.stringify(tokens)}`);
  const eos = JSON.stringify({ eos_token_id: [139, tokens[end]!.charCodeAt(0)] });
  const ends = chatCheckpoint("ckpt_ends", { "generation_config.json": eos });
  server.checkpoints.set("ckpt_ends", ends.checkpoint);
  const short = await chat({ model: "ckpt_ends", temperature: 0 });
  assert.equal(short.choices[0]!.finish_reason, "stop");
  assert.ok(choices[0]!.message.content!.startsWith(short.choices[0]!.message.content!));
  assert.equal(short.usage!.completion_tokens, end + 1);
  server.checkpoints.delete("ckpt_ends");
  ends.remove();
});

test("without a limit an answer may take the rest of the context, and stop texts end it", async () => {
  const long = await chat({ max_completion_tokens: null, temperature: 0 });
  assert.equal(long.usage!.total_tokens, 513, "the last token needs no place in the context");
  const text = long.choices[0]!.message.content!;
  const short = await chat({ max_completion_tokens: null, temperature: 0, stop: text.slice(3, 6) });
  assert.equal(short.choices[0]!.finish_reason, "stop");
  assert.equal(short.choices[0]!.message.content, text.slice(0, text.indexOf(text.slice(3, 6))));
});

test("chat_template.jinja goes before tokenizer_config.json", async () => {
  const { body } = await post("/tokenize", { model: "ckpt_file", messages: [{ role: "user", content: "ab" }] });
  assert.deepEqual(body["tokens"], [97, 98, 33]);
});

test("what a template does not take is refused with its words, and so is a checkpoint without one", async () => {
  const system = await refusal(chat({ messages: [{ role: "system", content: "Be kind" }] }));
  assert.equal(system.status, 422);
  assert.match(system.message, /chat template failed: only user and assistant speak here/);
  const none = await refusal(chat({ model: "ckpt_bare" }));
  assert.equal(none.status, 422);
  assert.match(none.message, /ckpt_bare has no chat template.*use \/v1\/completions/);
  assert.match((await refusal(chat({ model: "ckpt_hostile" }))).message, /chat template failed: Unexpected token/);
});

test("a conversation that is too long, and fields that would not be honoured, are refused in OpenAI's shape", async () => {
  const long = await refusal(chat({ messages: [{ role: "user", content: "a".repeat(600) }] }));
  assert.deepEqual([long.status, long.param, long.code], [400, "messages", "invalid_request"]);
  const refused: [string, unknown][] = [
    ["tools", []],
    ["tool_choice", "auto"],
    ["response_format", { type: "json_object" }],
    ["logit_bias", {}],
    ["frequency_penalty", 0.5],
    ["presence_penalty", 0.5],
    ["user", "me"],
    ["functions", []],
    ["modalities", ["text"]],
    ["best_of", 2],
    ["top_k", 5],
  ];
  for (const [name, value] of refused) {
    const { status, body } = await post("/v1/chat/completions", { ...settings, [name]: value });
    const error = body["error"] as Record<string, unknown>;
    assert.deepEqual([status, error["param"], error["type"]], [400, name, "invalid_request"], name);
  }
  for (const change of [
    { top_logprobs: 2 },
    { max_tokens: 3, max_completion_tokens: 4 },
    { messages: [] },
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
    { messages: [{ role: "user", content: "x", name: "me" }] },
    { messages: [{ role: "wizard", content: "x" }] },
    { n: 17 },
    { logprobs: 5 },
  ]) {
    const { status, body } = await post("/v1/chat/completions", { ...settings, ...change });
    assert.equal(status, 400, JSON.stringify(change));
    assert.equal(typeof (body["error"] as Record<string, unknown>)["message"], "string");
  }
});

test("tokenizing takes a text or a conversation, with special tokens as vLLM adds them", async () => {
  const ids = conversationIds();
  const conversation = { model: "ckpt_chatty", messages };
  const cases: [object, number[]][] = [
    [conversation, ids],
    [{ ...conversation, add_generation_prompt: false }, ids.slice(0, -1)],
    [{ ...conversation, add_special_tokens: true }, [chatTokens["<s>"], ...ids]],
    [{ model: "ckpt_chatty", prompt: "ab" }, [chatTokens["<s>"], 97, 98]],
    [{ model: "ckpt_chatty", prompt: "ab", add_special_tokens: false }, [97, 98]],
  ];
  for (const [request, tokens] of cases) {
    const { status, body } = await post("/tokenize", request);
    assert.deepEqual([status, body], [200, { tokens, count: tokens.length, max_model_len: 512, token_strs: null }]);
  }
  const named = await post("/tokenize", { model: "ckpt_chatty", prompt: "a b", return_token_strs: true });
  assert.deepEqual(named.body["token_strs"], ["<s>", "a", " ", "b"]);
  const { body } = await post("/detokenize", { model: "ckpt_chatty", tokens: ids });
  assert.equal(body["prompt"], "<s><|user|>Hi<|end|><|assistant|>Yes?<|end|><|user|>Tell<|end|><|assistant|>");
  for (const wrong of [{ ...conversation, prompt: "ab" }, { model: "ckpt_chatty" }, { prompt: "a", text: "b" }]) {
    assert.equal((await post("/tokenize", wrong)).status, 400);
  }
  const beyond = await post("/detokenize", { model: "ckpt_chatty", tokens: [97, 140] });
  assert.equal(beyond.status, 400);
  assert.match(JSON.stringify(beyond.body), /tokens\/1 is id 140; ids of ckpt_chatty are 0 to 139/);
  const info = await (await fetch(`${server.url}/tokenizer_info?model=ckpt_chatty`)).json();
  assert.equal((info as { bos_token: string }).bos_token, "<s>");
  assert.match((info as { chat_template: string }).chat_template, /add_generation_prompt/);
});

test("the Open Inference Protocol tells of the server's health and of its models", async () => {
  const get = async (path: string): Promise<[number, unknown]> => {
    const response = await fetch(server.url + path);
    return [response.status, await response.json()];
  };
  assert.deepEqual(await get("/v2/health/live"), [200, { live: true }]);
  assert.deepEqual(await get("/v2/health/ready"), [200, { ready: true }]);
  const [, about] = await get("/v2");
  assert.equal((about as { name: string }).name, "cambium");
  const [status, model] = await get("/v2/models/ckpt_chatty");
  assert.equal(status, 200);
  assert.deepEqual((model as { outputs: unknown[] }).outputs, [
    { name: "logits", datatype: "FP32", shape: [-1, -1, 140] },
  ]);
  assert.deepEqual(await get("/v2/models/ckpt_chatty/ready"), [200, { name: "ckpt_chatty", ready: true }]);
  const [missing, problem] = await get("/v2/models/nobody");
  const { error } = problem as { error: string };
  assert.deepEqual([missing, error], [404, 'no checkpoint "nobody"'], "an error is a text in that protocol");
  assert.equal((await get("/v2/models/nobody/ready"))[0], 404);
});
