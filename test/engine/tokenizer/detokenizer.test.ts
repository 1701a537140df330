import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createBytesTokenizer } from "../../../src/engine/tokenizer/bytesTokenizer.ts";
import { createDetokenizer } from "../../../src/engine/tokenizer/detokenizer.ts";
import type { Tokenizer } from "../../../src/engine/tokenizer/tokenizer.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { goldenSources, loadGoldenTokenizer, readGolden } from "./goldenTokenizers.ts";

function stream(
  tokenizer: Tokenizer,
  ids: readonly number[],
  skipSpecialTokens = true,
  promptIds: readonly number[] = [],
): string[] {
  const detokenizer = createDetokenizer(tokenizer, { skipSpecialTokens, promptIds });
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.end()];
}

const golden = sharedData("golden", "hf", "tokenizers");

for (const name of Object.keys(goldenSources)) {
  describe(`streaming with ${name}`, needsShared(golden), () => {
    test("the pieces make up what decoding at once gives", () => {
      const tokenizer = loadGoldenTokenizer(name);
      for (const { ids, ids_special: special, decoded_skip: skipped, decoded_special: kept } of readGolden(name)
        .vectors) {
        assert.equal(stream(tokenizer, ids).join(""), skipped);
        assert.equal(stream(tokenizer, special, false).join(""), kept);
      }
    });

    test("no piece ends in half a character", () => {
      const tokenizer = loadGoldenTokenizer(name);
      for (const { ids, decoded_skip: whole } of readGolden(name).vectors) {
        let given = "";
        for (const piece of stream(tokenizer, ids)) {
          given += piece;
          assert.ok(whole.startsWith(given), `${JSON.stringify(given)} begins ${JSON.stringify(whole)}`);
          assert.doesNotMatch(piece, /[\uD800-\uDBFF]$/);
        }
      }
    });
  });
}

test("a character is given out with its last byte, ASCII at once", () => {
  const tokenizer = createBytesTokenizer();
  const ids = tokenizer.encode("a\u{1F999}b\u00e9", { addSpecialTokens: false });
  assert.deepEqual(stream(tokenizer, ids), ["a", "", "", "", "\u{1F999}", "b", "", "\u00e9", ""]);
});

test("bytes that never become a character are U+FFFD as soon as that is sure, or at the end", () => {
  const tokenizer = createBytesTokenizer();
  assert.deepEqual(stream(tokenizer, [0xe2, 0x82, 0x61]), ["", "", "\uFFFDa", ""]);
  assert.deepEqual(stream(tokenizer, [0x61, 0xe2, 0x82]), ["a", "", "", "\uFFFD"]);
});

test("text is held back for a bounded number of tokens", () => {
  const pieces = stream(createBytesTokenizer(), new Array<number>(1000).fill(0xff));
  assert.equal(pieces.join(""), "\uFFFD".repeat(1000));
  const firstPiece = pieces.findIndex((piece) => piece !== "");
  assert.ok(firstPiece < 16, `first piece after ${firstPiece} tokens`);
});

test("a real U+FFFD in the text is kept", () => {
  const tokenizer = createBytesTokenizer();
  const ids = tokenizer.encode("a\uFFFDb\uFFFD", { addSpecialTokens: false });
  assert.equal(stream(tokenizer, ids).join(""), "a\uFFFDb\uFFFD");
});

test("the space before the first word is kept after a prompt and dropped after none", needsShared(golden), () => {
  const tokenizer = loadGoldenTokenizer("tok512-stories260K");
  const prompt = tokenizer.encode("Once", { addSpecialTokens: true });
  const next = tokenizer.encode("upon a time", { addSpecialTokens: false });
  assert.equal(stream(tokenizer, next, true, prompt).join(""), " upon a time");
  assert.equal(stream(tokenizer, next, true, [1]).join(""), "upon a time", "BOS alone is no text");
  assert.equal(stream(tokenizer, next).join(""), "upon a time");
});

test("the cost of a token does not grow with the text", () => {
  const inner = createBytesTokenizer();
  let longest = 0;
  const counting: Tokenizer = {
    ...inner,
    decode(ids, options) {
      longest = Math.max(longest, ids.length);
      return inner.decode(ids, options);
    },
  };
  stream(counting, new Array<number>(2000).fill(0x61));
  assert.ok(longest <= 17, `${longest} ids decoded at once`);
});
