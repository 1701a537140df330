import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { BosProfile } from "../../../src/engine/eval/encodePair.ts";
import { encodePair, encodeText, prefixToken } from "../../../src/engine/eval/encodePair.ts";
import { findTask } from "../../../src/engine/eval/index.ts";
import { planDoc } from "../../../src/engine/eval/plan.ts";
import { parseDocs } from "../../../src/engine/eval/readDocs.ts";
import { createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";
import { loadTokenizer } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import type { Tokenizer } from "../../../src/engine/tokenizer/tokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { benchmarks, harnessSamples, readBenchmark, readWikitextGolden } from "./goldenTasks.ts";

const llamaPath = sharedData("checkpoints", "stories260K", "tokenizer.json");

function llama(): Tokenizer {
  return loadTokenizer({ tokenizerJson: readFileSync(llamaPath ?? "") });
}

const profiles: Readonly<Record<"no-bos" | "tokenizer-default", BosProfile>> = {
  "no-bos": "none",
  "tokenizer-default": "tokenizer",
};

for (const [name, bos] of Object.entries(profiles)) {
  test(
    `the windows of wikitext pages equal the harness's (${name})`,
    needsShared(benchmarks, harnessSamples, llamaPath),
    () => {
      const golden = readWikitextGolden(name as keyof typeof profiles);
      const wikitext = findTask("wikitext");
      assert.ok(wikitext);
      const { docs } = parseDocs(wikitext, readBenchmark("wikitext/test.pages.jsonl"), golden.samples.length);
      const options = { tokenizer: llama(), bos, maxLength: golden.max_length };
      const plan = docs.flatMap((doc, i) => planDoc("wikitext", doc, i, options));
      const windows = plan.map(({ score }) => ({
        ctx: score.ids.slice(0, score.start),
        cont: score.ids.slice(score.start),
      }));
      assert.deepEqual(windows.slice(0, golden.first_windows.length), golden.first_windows);
      assert.equal(windows.length, golden.n_windows_total);
      assert.equal(
        windows.reduce((total, { cont }) => total + cont.length, 0),
        golden.scored_tokens_total,
      );
    },
  );
}

test("the continuation is what context and continuation together have more than the context", () => {
  const tokenizer = createBytesTokenizer();
  const text = (ids: readonly number[]): string => tokenizer.decode(ids, { skipSpecialTokens: false });
  const plain = encodePair("ab", " c", tokenizer, "none");
  assert.deepEqual([text(plain.context), text(plain.continuation)], ["ab", " c"]);
  const spaced = encodePair("ab \n\u0085", "c", tokenizer, "none");
  assert.deepEqual([text(spaced.context), text(spaced.continuation)], ["ab", " \n\u0085c"], "white space moves over");
  const bom = encodePair("ab\uFEFF", "c", tokenizer, "none");
  assert.equal(text(bom.continuation), "c", "U+FEFF is no white space to Python");
});

test(
  "tokens that merge across the border belong to the continuation as the harness cuts them",
  needsShared(llamaPath),
  () => {
    const tokenizer = llama();
    const { context, continuation } = encodePair("Once up", "on a time", tokenizer, "none");
    const whole = tokenizer.encode("Once upon a time", { addSpecialTokens: false });
    assert.deepEqual(context, tokenizer.encode("Once up", { addSpecialTokens: false }));
    assert.deepEqual(continuation, whole.slice(context.length));
  },
);

test(
  "the two profiles differ by the beginning-of-sequence token, which is never doubled",
  needsShared(llamaPath),
  () => {
    const tokenizer = llama();
    const none = encodePair("Once", " upon", tokenizer, "none");
    const withBos = encodePair("Once", " upon", tokenizer, "tokenizer");
    assert.deepEqual(withBos.context, [1, ...none.context]);
    assert.deepEqual(withBos.continuation, none.continuation);
    assert.deepEqual(encodeText("<s>Once", tokenizer, "tokenizer"), encodeText("<s>Once", tokenizer, "none"));
    assert.deepEqual(encodeText("Once", tokenizer, "tokenizer"), [1, ...encodeText("Once", tokenizer, "none")]);
  },
);

test("an empty context becomes the prefix token, in both profiles", needsShared(llamaPath), () => {
  const tokenizer = llama();
  for (const profile of ["none", "tokenizer"] as const) {
    const { context, continuation } = encodePair("", " one", tokenizer, profile);
    assert.deepEqual(context, [1]);
    assert.deepEqual(continuation, tokenizer.encode(" one", { addSpecialTokens: false }));
    const own = encodePair("", "<s> one", tokenizer, profile);
    assert.deepEqual(own.context, [1]);
    assert.deepEqual(own.continuation, tokenizer.encode("<s> one", { addSpecialTokens: false }).slice(1));
  }
});

test("the prefix is EOS where there is no BOS, and neither is an error", () => {
  const tokenizer = createBytesTokenizer();
  assert.equal(prefixToken(tokenizer), 256);
  assert.equal(prefixToken({ ...tokenizer, bosTokenId: null }), 257);
  assert.throws(() => prefixToken({ ...tokenizer, bosTokenId: null, eosTokenId: null }), CodedError);
});

test("a sequence is cut from the left to max_length inputs and the last token", () => {
  const options = { tokenizer: createBytesTokenizer(), bos: "none", maxLength: 4 } as const;
  const planned = (context: string, continuation: string) => {
    const request = { kind: "loglikelihood", context, continuation } as const;
    const doc = { requests: [request], target: "", gold: null, shot: () => "", score: () => ({}) };
    return planDoc("task", doc, 7, options)[0]?.score;
  };
  assert.deepEqual(planned("abcdef", "gh"), { ids: [..."defgh"].map((c) => c.charCodeAt(0)), start: 3 });
  assert.deepEqual(planned("ab", "cd"), { ids: [..."abcd"].map((c) => c.charCodeAt(0)), start: 2 });
  assert.deepEqual(planned("ab", "cdef"), { ids: [..."bcdef"].map((c) => c.charCodeAt(0)), start: 1 });
  assert.throws(() => planned("ab", "cdefg"), /task doc 7, request 0: the continuation has 5 tokens, max_length is 4/);
  assert.throws(() => planned("ab", ""), /doc 7, request 0: the continuation has no token/);
});
