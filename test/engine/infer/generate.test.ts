/** Generation over a decoder that is a table: what is asked of the model, and what is made of its answers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PromptDecoder, Sequence } from "../../../src/engine/infer/decoder.ts";
import { maxStepLogits, maxStepTokens, stepTokensWithLogits, steps } from "../../../src/engine/infer/decoder.ts";
import { generate } from "../../../src/engine/infer/generate.ts";
import { LogitRow, rowsOf } from "../../../src/engine/infer/logitRow.ts";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { CodedError } from "../../../src/ops/errors.ts";

const vocab = 11;
const maxLength = 8;

interface TableDecoder extends PromptDecoder {
  numOpen: number;
  readonly calls: { ids: readonly number[]; rows: number; before: number }[];
}

/** A model whose logits depend on the whole context: id (sum of ids + position) mod vocab is the most likely. */
function tableDecoder(): TableDecoder {
  const open: PromptDecoder["open"] = async ({ capacity }) => start(capacity);
  const decoder: TableDecoder = { maxLength, vocabSize: vocab, numOpen: 0, calls: [], open };
  function start(capacity: number): Sequence {
    const context: number[] = [];
    decoder.numOpen++;
    return {
      get length() {
        return context.length;
      },
      async append(ids, rows) {
        decoder.calls.push({ ids, rows, before: context.length });
        const out: number[] = [];
        for (const [i, id] of ids.entries()) {
          context.push(id);
          if (i >= ids.length - rows) out.push(...rowAfter(context));
        }
        assert.ok(context.length <= capacity, "no more positions than were asked for");
        return rowsOf(Float32Array.from(out), vocab);
      },
      close() {
        decoder.numOpen--;
      },
    };
  }
  return decoder;
}

function rowAfter(context: readonly number[]): number[] {
  const best = (context.reduce((sum, id) => sum + id, 0) + context.length) % vocab;
  return Array.from({ length: vocab }, (_, id) => (id === best ? 3 : ((id * 7 + context.length) % 5) / 2));
}

function greedyAfter(context: readonly number[]): number {
  const row = rowAfter(context);
  return row.indexOf(Math.max(...row));
}

const plain: GenerateRequest = {
  promptIds: [1, 2, 3],
  maxTokens: 4,
  temperature: 0,
  topP: 1,
  seed: 0,
  stopIds: [],
  logprobs: null,
  echo: false,
};

async function collect(
  decoder: PromptDecoder,
  request: GenerateRequest,
  signal?: AbortSignal,
): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of generate(decoder, request, signal ?? new AbortController().signal)) events.push(event);
  return events;
}

function idsOf(events: readonly GenerateEvent[]): number[] {
  return events.flatMap((event) => (event.type === "token" ? [event.id] : []));
}

function endOf(events: readonly GenerateEvent[]): GenerateEvent & { type: "end" } {
  const end = events.at(-1);
  assert.equal(end?.type, "end");
  return end as GenerateEvent & { type: "end" };
}

test("greedy decoding computes the prompt once and then one token a step", async () => {
  const decoder = tableDecoder();
  const events = await collect(decoder, plain);
  const expected: number[] = [];
  while (expected.length < 4) expected.push(greedyAfter([1, 2, 3, ...expected]));
  assert.deepEqual(idsOf(events), expected);
  assert.deepEqual(endOf(events), { type: "end", reason: "length", stopToken: null });
  assert.deepEqual(
    decoder.calls.map(({ ids, rows }) => [ids.length, rows]),
    [
      [3, 1],
      [1, 1],
      [1, 1],
      [1, 1],
    ],
  );
  assert.equal(decoder.numOpen, 0, "the cache is given back");
});

test("what the cache holds of the prompt is told and not computed again, but never its last token", async () => {
  const decoder = tableDecoder();
  const open = decoder.open.bind(decoder);
  const holding: PromptDecoder = {
    ...decoder,
    async open(prompt, signal) {
      const sequence = await open(prompt, signal);
      await sequence.append(prompt.ids.slice(0, -1), 0);
      return sequence;
    },
  };
  const [told, ...events] = await collect(holding, plain);
  assert.deepEqual(told, { type: "cached", tokens: 2 });
  assert.deepEqual(events, await collect(tableDecoder(), plain));
  assert.deepEqual(decoder.calls[1], { ids: [3], rows: 1, before: 2 });
});

test("a stop id ends the text without being part of it, and its log-probability is told", async () => {
  const first = greedyAfter([1, 2, 3]);
  const second = greedyAfter([1, 2, 3, first]);
  assert.notEqual(first, second);
  const events = await collect(tableDecoder(), { ...plain, stopIds: [second], logprobs: 1 });
  assert.deepEqual(idsOf(events), [first]);
  const end = endOf(events);
  assert.equal(end.reason, "stop");
  assert.equal(end.stopToken?.id, second);
  assert.equal(end.stopToken?.logprobs?.logprob, end.stopToken?.logprobs?.top[0]?.[1]);
});

test("tokens are cut to what the context has room for", async () => {
  const events = await collect(tableDecoder(), { ...plain, promptIds: [1, 2, 3, 4, 5], maxTokens: 100 });
  assert.equal(idsOf(events).length, maxLength - 5 + 1);
  assert.equal(endOf(events).reason, "length");
});

test("echo scores every prompt token but the first, each given all before it", async () => {
  const promptIds = [1, 2, 3, 4];
  const [prompt, token] = await collect(tableDecoder(), { ...plain, promptIds, maxTokens: 1, logprobs: 2, echo: true });
  assert.equal(prompt?.type, "prompt");
  if (prompt?.type !== "prompt") return;
  assert.equal(prompt.logprobs.length, 4);
  assert.equal(prompt.logprobs[0], null);
  for (let i = 1; i < 4; i++) {
    const row = rowAfter(promptIds.slice(0, i));
    const logSum = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
    assert.equal(prompt.logprobs[i]?.token, promptIds[i]);
    assert.ok(Math.abs(prompt.logprobs[i]!.logprob - (row[promptIds[i]!]! - logSum)) < 1e-6);
    assert.equal(prompt.logprobs[i]?.top.length, 2);
    assert.equal(prompt.logprobs[i]?.top[0]?.[0], greedyAfter(promptIds.slice(0, i)));
  }
  assert.equal(token?.type === "token" && token.id, greedyAfter(promptIds));
});

test("a prompt of maxLength + 1 tokens with echo gives prompt + 1 entries, the new one from the last maxLength", async () => {
  const promptIds = [1, 2, 3, 4, 5, 6, 7, 8, 9];
  assert.equal(promptIds.length, maxLength + 1);
  const events = await collect(tableDecoder(), { ...plain, promptIds, maxTokens: 5, logprobs: 1, echo: true });
  const prompt = events[0];
  assert.equal(prompt?.type === "prompt" && prompt.logprobs.length, maxLength + 1);
  assert.deepEqual(idsOf(events), [greedyAfter(promptIds.slice(1))]);
  assert.equal(endOf(events).reason, "length");
});

test("max_tokens 0 scores the prompt, generates nothing and does not compute the last token", async () => {
  const decoder = tableDecoder();
  const events = await collect(decoder, { ...plain, maxTokens: 0, logprobs: 1, echo: true });
  assert.deepEqual(
    events.map((event) => event.type),
    ["prompt", "end"],
  );
  assert.deepEqual(
    decoder.calls.map((call) => call.ids),
    [[1, 2]],
  );
  const nothing = tableDecoder();
  assert.deepEqual(
    (await collect(nothing, { ...plain, maxTokens: 0 })).map((event) => event.type),
    ["end"],
  );
  assert.equal(nothing.calls.length, 0);
});

test("a seed names one text, and other seeds name others", async () => {
  const request = { ...plain, promptIds: [1], maxTokens: 8, temperature: 1.5, topP: 0.95 };
  const texts = await Promise.all(
    [7, 7, 8, 9, 10, 11].map(async (seed) => idsOf(await collect(tableDecoder(), { ...request, seed })).join()),
  );
  assert.equal(texts[0], texts[1]);
  assert.ok(new Set(texts).size >= 4);
});

test("aborting ends generation with `cancelled` and gives the cache back", async () => {
  const decoder = tableDecoder();
  const controller = new AbortController();
  const run = (async () => {
    for await (const event of generate(decoder, { ...plain, maxTokens: 5 }, controller.signal)) {
      if (event.type === "token") controller.abort();
    }
  })();
  await assert.rejects(run, (error) => error instanceof CodedError && error.code === "cancelled");
  assert.equal(decoder.numOpen, 0);
  assert.equal(decoder.calls.length, 1);
});

for (const [what, change, named] of [
  ["an empty prompt", { promptIds: [] }, /no tokens/],
  ["an id outside the vocabulary", { promptIds: [1, 11] }, /token 1 is 11; .*0 to 10/],
  ["a negative id", { promptIds: [-1] }, /token 0 is -1/],
  ["a fractional id", { promptIds: [1.5] }, /1\.5/],
  ["a prompt longer than the context", { promptIds: [1, 1, 1, 1, 1, 1, 1, 1, 1] }, /9 tokens.*at most 8/],
  ["a negative temperature", { temperature: -1 }, /temperature is -1/],
  ["a temperature that is not a number", { temperature: NaN }, /temperature is NaN/],
  ["an empty nucleus", { topP: 0 }, /topP is 0/],
  ["a negative token count", { maxTokens: -1 }, /maxTokens is -1/],
  ["a seed that is no integer", { seed: 0.5 }, /seed is 0.5/],
] as const) {
  test(`${what} is refused with its value`, async () => {
    const request = { ...plain, ...change } as GenerateRequest;
    await assert.rejects(collect(tableDecoder(), request), (error) => {
      assert.ok(error instanceof CodedError && error.code === "invalid_request");
      assert.match(error.message, named);
      return true;
    });
  });
}

test("logits that are not finite are an error, never a token", async () => {
  const decoder = tableDecoder();
  const broken: PromptDecoder = {
    ...decoder,
    open: async (prompt, signal) => ({
      ...(await decoder.open(prompt, signal)),
      append: async () => [new LogitRow(Float32Array.of(1, NaN, 2))],
    }),
  };
  await assert.rejects(collect(broken, plain), (error) => error instanceof CodedError && error.code === "diverged");
});

test("steps cover every id once, and logits of a step are bounded for any vocabulary", () => {
  const ids = Array.from({ length: 700 }, (_, i) => i);
  assert.deepEqual(
    [...steps(ids, maxStepTokens)].flatMap(({ part }) => part),
    ids,
  );
  for (const size of [2, 512, 32_000, 128_256, 4_000_000]) {
    assert.ok(stepTokensWithLogits(size) >= 1);
    assert.ok(stepTokensWithLogits(size) * size <= maxStepLogits || stepTokensWithLogits(size) === 1);
  }
});
