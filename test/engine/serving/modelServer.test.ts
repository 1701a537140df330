/**
 * How a model process tells of tokens: as they come to whoever reads them so, those of a few milliseconds together, and
 * many at a time to whoever does not.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause, setImmediate as turn } from "node:timers/promises";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { createModelServer } from "../../../src/engine/serving/modelServer.ts";
import type { FromChild } from "../../../src/engine/serving/protocol.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

/** How many tokens a model makes, and how long each takes it, ms; 0: a turn of the event loop. */
interface Model {
  readonly count: number;
  readonly tokenMs: number;
}
const quick: Model = { count: 300, tokenMs: 0 };
/** Slower than a reader of a stream is told of tokens, quicker than one who waits for the whole. */
const slow: Model = { count: 12, tokenMs: 25 };

async function* tokens({ count, tokenMs }: Model): AsyncGenerator<GenerateEvent> {
  for (let id = 0; id < count; id++) {
    await (tokenMs > 0 ? pause(tokenMs) : turn());
    yield { type: "token", id, logprobs: null };
  }
  yield { type: "end", reason: "length", stopToken: null };
}

/** @returns the events of each message in turn. */
async function told(model: Model, gather: boolean): Promise<GenerateEvent[][]> {
  const messages: GenerateEvent[][] = [];
  const done = Promise.withResolvers<void>();
  const loaded = Promise.withResolvers<void>();
  const tiny = tinyCheckpoint();
  const server = createModelServer({
    load: async () => ({
      ...{ maxLength: 1000, vocabSize: 1000, memoryBytes: 1, sharesPages: false, close: () => undefined },
      generate: () => tokens(model),
      score: () => assert.fail("nothing is scored"),
    }),
    send(message: FromChild) {
      if (message.type === "loaded") loaded.resolve();
      if (message.type !== "events") return;
      messages.push(message.events.map(({ event }) => event));
      if (messages.at(-1)?.at(-1)?.type === "end") done.resolve();
    },
    rssBytes: () => 1,
    onUnexpected: (error) => assert.fail(String(error)),
    exit: () => undefined,
  });
  server.receive({ type: "load", backends: null, checkpoint: tiny.checkpoint, cachePositions: 0, cacheDtype: "F32" });
  await loaded.promise;
  const settings = { temperature: 0, topP: 1, seed: 0, stopIds: [], logprobs: null, echo: false };
  const request: GenerateRequest = { promptIds: [1], maxTokens: model.count, ...settings, gather };
  server.receive({ type: "generate", id: 0, request });
  await done.promise;
  server.disconnected();
  tiny.remove();
  return messages;
}

const first = { type: "token", id: 0, logprobs: null };

for (const [name, model] of Object.entries({ quick, slow })) {
  test(`a ${name} model: the first token is told of at once, all of them in order, however they are read`, async () => {
    for (const gather of [false, true]) {
      const messages = await told(model, gather);
      assert.deepEqual(messages[0], [first]);
      const ids = messages.flat().map((event) => (event.type === "token" ? event.id : event.type));
      assert.deepEqual(ids, [...Array.from({ length: model.count }, (_, id) => id), "end"]);
    }
  });
}

test("tokens of a slow model are told of one by one, or gathered for whoever does not read them as they come", async () => {
  const [stream, whole] = [await told(slow, false), await told(slow, true)];
  assert.ok(stream.every((message) => message.filter(({ type }) => type === "token").length <= 1));
  assert.ok(whole.length < stream.length / 2, `${whole.length} messages, ${stream.length} to a stream`);
});

test("tokens that a quick model makes within milliseconds go together: a message every 10 ms at most", async () => {
  const startedAt = performance.now();
  const { length } = await told(quick, false);
  // The first token and the end wait for nothing.
  const most = 3 + (performance.now() - startedAt) / 10;
  assert.ok(length <= most, `${length} messages, at most ${most}`);
});
