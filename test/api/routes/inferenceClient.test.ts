/**
 * OpenAI's own client against everything that can go wrong: each error arrives as the class that the client has for
 * its status, with a message, a code and the request's id, in streams as well; and what it tries again on its own.
 * (What goes right is in the tests beside this one.)
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI, * as errors from "openai";
import { chatCheckpoint } from "../../helpers/chatCheckpoint.ts";
import type { InferenceServer } from "../../helpers/inferenceServer.ts";
import { startInferenceServer } from "../../helpers/inferenceServer.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

/** A model that is arithmetic, and misbehaves when asked to: 901 ends its process, 902 has no finite logits. */
const entry = new URL("../../engine/serving/tableChild.ts", import.meta.url);
const [dies, diverges] = [901, 902];
const config = { vocabSize: 1000, eosTokenIds: [], maxPositionEmbeddings: 4096 };
const model = tinyCheckpoint({ id: "ckpt_table", bytes: false, config });
const other = tinyCheckpoint({ id: "ckpt_other", bytes: false, config });
const bare = chatCheckpoint("ckpt_bare", { "tokenizer_config.json": JSON.stringify({ bos_token: "<s>" }) });
let server: InferenceServer;

before(async () => {
  const keys = { reader: ["read"], blob: ["worker"] };
  server = await startInferenceServer([model.checkpoint, other.checkpoint, bare.checkpoint], { entry, keys });
});
after(async () => {
  await server.close();
  model.remove();
  other.remove();
  bare.remove();
});

const clientOf = (apiKey = "reader", maxRetries = 0): OpenAI =>
  new OpenAI({ apiKey, baseURL: `${server.url}/v1`, maxRetries });
const asked = { model: "ckpt_table", prompt: [1, 2], max_tokens: 3 };
const messages = [{ role: "user" as const, content: "Hi" }];

async function fails(
  run: Promise<unknown>,
  kind: new (...given: never[]) => errors.APIError,
  code: string | null,
  words: RegExp,
) {
  await assert.rejects(run, (error) => {
    assert.ok(error instanceof kind, `${(error as object).constructor.name}: ${String(error)}`);
    assert.match(error.message, words);
    if (code !== null) assert.deepEqual([error.code, error.type], [code, code]);
    assert.ok(error.requestID);
    return true;
  });
}

test("401 and 403: a wrong key and one without the scope, on every route that the client has here", async () => {
  const calls = (client: OpenAI): Promise<unknown>[] => [
    client.models.list(),
    client.models.retrieve("ckpt_table"),
    client.completions.create(asked),
    client.completions.create({ ...asked, stream: true }),
    client.chat.completions.create({ model: "ckpt_bare", messages }),
    client.chat.completions.create({ model: "ckpt_bare", messages, stream: true }),
  ];
  for (const call of calls(clientOf("wrong"))) await fails(call, errors.AuthenticationError, "unauthorized", /API key/);
  for (const call of calls(clientOf("blob")))
    await fails(call, errors.PermissionDeniedError, "forbidden", /scopes worker/);
});

test("404: an unknown model on every route, and a route of OpenAI's that is not here", async () => {
  const client = clientOf();
  const nobody = { ...asked, model: "nobody" };
  for (const call of [
    client.models.retrieve("nobody"),
    client.completions.create(nobody),
    client.completions.create({ ...nobody, stream: true }),
    client.chat.completions.create({ model: "nobody", messages }),
  ])
    await fails(call, errors.NotFoundError, "not_found", /nobody/);
  await fails(client.embeddings.create({ model: "ckpt_table", input: "x" }), errors.NotFoundError, null, /embeddings/);
});

test("405: a method that a route of OpenAI's does not have", async () => {
  const client = clientOf();
  await fails(client.get("/completions"), errors.APIError, "method_not_allowed", /it has POST/);
  await fails(client.delete("/models/ckpt_table"), errors.APIError, "method_not_allowed", /it has GET/);
});

test("400 and 422: the field is named in `param`; a checkpoint without a template says so", async () => {
  const client = clientOf();
  for (const stream of [false, true]) {
    const wrong = client.completions.create({ ...asked, top_p: 2, stream });
    wrong.catch((error: errors.APIError) => assert.equal(error.param, "top_p"));
    await fails(wrong, errors.BadRequestError, "invalid_request", /top_p/);
    const chat = client.chat.completions.create({ model: "ckpt_bare", messages, stream });
    await fails(chat, errors.UnprocessableEntityError, "unprocessable", /no chat template/);
  }
});

test("5xx: a model whose process dies or whose logits are not finite fails its own request; the next is answered", async () => {
  const client = clientOf();
  const expected = (await client.completions.create(asked)).usage;
  for (const stream of [false, true]) {
    const crash = client.completions.create({ ...asked, prompt: [dies], stream });
    const crashed = stream
      ? (async () => {
          for await (const _ of (await crash) as AsyncIterable<unknown>);
        })()
      : crash;
    await assert.rejects(crashed, (error) => {
      assert.ok(error instanceof errors.APIError, String(error));
      assert.ok(stream || error instanceof errors.InternalServerError);
      assert.match(error.message, /ckpt_table ended/);
      return true;
    });
    assert.deepEqual((await client.completions.create(asked)).usage, expected);
  }
  const diverged = client.completions.create({ ...asked, prompt: [diverges] });
  await fails(diverged, errors.APIError, "diverged", /not finite/);
  assert.deepEqual((await client.completions.create(asked)).usage, expected);
});

test("a process that dies takes the requests in it along and no others", async () => {
  const client = clientOf();
  const long = { ...asked, max_tokens: 300, temperature: 2 };
  await Promise.all(["ckpt_table", "ckpt_other"].map((id) => client.completions.create({ ...asked, model: id })));
  const elsewhere = client.completions.create({ ...long, model: "ckpt_other" });
  const beside = assert.rejects(client.completions.create({ ...long, max_tokens: 4000 }), /ckpt_table ended/);
  const crash = assert.rejects(client.completions.create({ ...asked, prompt: [dies] }), /ckpt_table ended/);
  await Promise.all([beside, crash]);
  assert.equal((await elsewhere).usage?.completion_tokens, 300);
  assert.equal((await client.completions.create(asked)).usage?.completion_tokens, 3);
});

test("a client that gives up or breaks off a stream gets its own error, and the server goes on", async () => {
  const client = clientOf();
  const controller = new AbortController();
  const slow = { ...asked, max_tokens: 60, temperature: 2 };
  const left = client.completions.create(slow, { signal: controller.signal });
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(left, errors.APIUserAbortError);
  await assert.rejects(client.completions.create(slow, { timeout: 5 }), errors.APIConnectionTimeoutError);
  const stream = await client.completions.create({ ...slow, stream: true });
  for await (const chunk of stream) if (chunk.choices.length > 0) break;
  assert.equal((await client.completions.create(asked)).usage?.completion_tokens, 3);
});
