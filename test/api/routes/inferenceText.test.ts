/** From the model's events to text: stop strings, offsets, echo, log-probabilities; with the bytes tokenizer. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { ChoiceDelta, ChoiceOptions } from "../../../src/api/routes/inferenceChoice.ts";
import { readChoice } from "../../../src/api/routes/inferenceChoice.ts";
import { logprobEntry, presentLogprobs } from "../../../src/api/routes/inferenceLogprobs.ts";
import { codePoints, createTextGate } from "../../../src/api/routes/inferenceText.ts";
import type { GenerateEvent, TokenLogprobs } from "../../../src/engine/infer/servedModel.ts";
import { createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";

const tokenizer = createBytesTokenizer();
const bytesOf = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });

function logprobs(token: number): TokenLogprobs {
  return {
    token,
    logprob: -1,
    top: [
      [token, -1],
      [0, -2],
    ],
  };
}

async function* eventsOf(
  ids: readonly number[],
  end: Partial<GenerateEvent & { type: "end" }> = {},
): AsyncGenerator<GenerateEvent> {
  for (const id of ids) yield { type: "token", id, logprobs: logprobs(id) };
  yield { type: "end", reason: "length", stopToken: null, ...end };
}

async function read(
  events: AsyncIterable<GenerateEvent>,
  options: Partial<ChoiceOptions> = {},
): Promise<{ deltas: ChoiceDelta[]; text: string; tokens: string[]; offsets: number[]; finish: string | null }> {
  const deltas: ChoiceDelta[] = [];
  const defaults = { tokenizer, prompt: { ids: [65], text: null }, stops: [], echo: false, withLogprobs: true };
  for await (const delta of readChoice({ ...defaults, ...options }, events)) deltas.push(delta);
  const entries = deltas.flatMap((delta) => delta.entries);
  return {
    deltas,
    text: deltas.map((delta) => delta.text).join(""),
    tokens: entries.map((entry) => entry.token),
    offsets: entries.map((entry) => entry.offset),
    finish: deltas.at(-1)?.finish ?? null,
  };
}

test("text ends before the first stop string, wherever the pieces were cut", () => {
  const word = fc.stringMatching(/^[ab]{0,12}$/);
  const stop = fc.stringMatching(/^[ab]{1,4}$/);
  fc.assert(
    fc.property(fc.array(word, { maxLength: 8 }), fc.array(stop, { maxLength: 3 }), (pieces, stops) => {
      const gate = createTextGate(stops);
      const outs: string[] = [];
      const whole = pieces.join("");
      let seen = "";
      for (const piece of pieces) {
        outs.push(gate.push(piece));
        seen += piece;
        assert.ok(
          stops.every((text) => !outs.join("").includes(text)),
          "nothing of a stop string comes out",
        );
        assert.ok(seen.startsWith(outs.join("")));
      }
      const ends = stops.map((text) => whole.indexOf(text)).filter((index) => index >= 0);
      const expected = whole.slice(0, ends.length > 0 ? Math.min(...ends) : whole.length);
      const got = outs.join("") + gate.end();
      // Given piece by piece, the first stop string to be complete ends the text, which may not be the leftmost.
      if (pieces.length <= 1 || stops.length <= 1) assert.equal(got, expected);
      else assert.ok(whole.startsWith(got) && stops.every((text) => !got.includes(text)));
      assert.equal(gate.length, got.length);
    }),
  );
});

test("offsets count code points", () => {
  assert.equal(codePoints("a\u00e9\u{1F600}b"), 4);
});

test("a choice's text and entries come out token by token", async () => {
  const { deltas, text, tokens, offsets, finish } = await read(eventsOf(bytesOf("Hi!")));
  assert.deepEqual([text, tokens, offsets, finish], ["Hi!", ["H", "i", "!"], [0, 1, 2], "length"]);
  assert.equal(deltas[0]?.text, "H");
  assert.equal(
    deltas.reduce((sum, delta) => sum + delta.tokens, 0),
    3,
  );
});

test("a character of several tokens comes out whole, and its bytes are shown as tokens", async () => {
  const { deltas, text, tokens, offsets } = await read(eventsOf(bytesOf("\u00e9x")));
  assert.equal(text, "\u00e9x");
  assert.deepEqual(tokens, ["bytes:\\xc3", "bytes:\\xa9", "x"]);
  assert.deepEqual(offsets, [0, 0, 1]);
  assert.ok(deltas.every((delta) => !delta.text.includes("\uFFFD")));
});

test("a stop string across tokens ends the choice, is not shown, and cancels the rest", async () => {
  let pulled = 0;
  async function* counted(): AsyncGenerator<GenerateEvent> {
    for await (const event of eventsOf(bytesOf("one.END two"))) {
      pulled++;
      yield event;
    }
  }
  const { text, tokens, finish } = await read(counted(), { stops: ["END", "zzz"] });
  assert.deepEqual([text, finish, pulled], ["one.", "stop", 7]);
  assert.deepEqual(tokens, ["o", "n", "e", "."], "tokens of the stop string have no entries");
});

test("what only looked like a stop string comes out at the end", async () => {
  const { text, tokens, finish } = await read(eventsOf(bytesOf("one.EN")), { stops: ["END"] });
  assert.deepEqual([text, tokens.length, finish], ["one.EN", 6, "length"]);
});

test("the end-of-sequence token has an entry, no text, and reason stop", async () => {
  const stopToken = { id: 257, logprobs: logprobs(257) };
  const { text, tokens, finish, deltas } = await read(eventsOf(bytesOf("a"), { reason: "stop", stopToken }));
  assert.deepEqual([text, tokens, finish], ["a", ["a", "<|eos|>"], "stop"]);
  assert.equal(
    deltas.reduce((sum, delta) => sum + delta.tokens, 0),
    2,
  );
});

test("echo gives the prompt's text and entries first; its first token has no log-probability", async () => {
  const ids = [256, ...bytesOf("Ab")];
  async function* events(): AsyncGenerator<GenerateEvent> {
    yield { type: "prompt", logprobs: [null, logprobs(65), logprobs(98)] };
    yield* eventsOf(bytesOf("c"));
  }
  const { deltas, text, tokens, offsets } = await read(events(), { prompt: { ids, text: "Ab" }, echo: true });
  assert.deepEqual([text, tokens, offsets], ["Abc", ["<|bos|>", "A", "b", "c"], [0, 0, 1, 2]]);
  const [first] = deltas[0]!.entries;
  assert.deepEqual([first!.logprob, first!.top], [null, null]);
});

test("without a tokenizer the text is empty and tokens read token_id:N", async () => {
  const { text, tokens, offsets, finish } = await read(eventsOf([7, 8]), { tokenizer: null });
  assert.deepEqual([text, tokens, offsets, finish], ["", ["token_id:7", "token_id:8"], [0, 0], "length"]);
});

test("of two ids with one text the larger value is kept, the chosen one is always there, and __proto__ is a token", () => {
  const spelled = ["x", "y", "x", "__proto__"];
  const fake = { ...tokenizer, tokenText: (id: number) => spelled[id]! };
  const entry = logprobEntry(
    fake,
    3,
    {
      token: 3,
      logprob: -4,
      top: [
        [0, -1],
        [1, -2],
        [2, -3],
      ],
    },
    0,
  );
  const { top_logprobs: top } = presentLogprobs([entry]);
  assert.equal(JSON.stringify(top), '[{"__proto__":-4,"x":-1,"y":-2}]');
});
