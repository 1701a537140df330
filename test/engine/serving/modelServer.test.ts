/** How a model process tells of tokens: as they come to whoever reads them so, and many at a time to whoever does not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { createModelServer } from "../../../src/engine/serving/modelServer.ts";
import type { FromChild } from "../../../src/engine/serving/protocol.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const count = 300;

async function* tokens(): AsyncGenerator<GenerateEvent> {
  for (let id = 0; id < count; id++) {
    await turn();
    yield { type: "token", id, logprobs: null };
  }
  yield { type: "end", reason: "length", stopToken: null };
}

/** @returns the events of each message in turn. */
async function told(gather: boolean): Promise<GenerateEvent[][]> {
  const messages: GenerateEvent[][] = [];
  const done = Promise.withResolvers<void>();
  const loaded = Promise.withResolvers<void>();
  const tiny = tinyCheckpoint();
  const server = createModelServer({
    load: async () => ({
      ...{
        maxLength: 1000,
        vocabSize: 1000,
        memoryBytes: 1,
        sharesPages: false,
        generate: tokens,
        close: () => undefined,
      },
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
  server.receive({ type: "load", backends: null, checkpoint: tiny.checkpoint, cachePositions: 0 });
  await loaded.promise;
  const settings = { temperature: 0, topP: 1, seed: 0, stopIds: [], logprobs: null, echo: false };
  const request: GenerateRequest = { promptIds: [1], maxTokens: count, ...settings, gather };
  server.receive({ type: "generate", id: 0, request });
  await done.promise;
  server.disconnected();
  tiny.remove();
  return messages;
}

test("gathered tokens: the first at once, then many in a message; all of them in order, as without", async () => {
  const [one, many] = [await told(false), await told(true)];
  assert.deepEqual(many.flat(), one.flat());
  assert.equal(many.flat().length, count + 1);
  assert.deepEqual(many[0], [{ type: "token", id: 0, logprobs: null }]);
  assert.ok(many.length < one.length / 2, `${many.length} messages, ${one.length} without`);
});
