import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bytesBosTokenId,
  bytesEosTokenId,
  createBytesTokenizer,
} from "../../../src/engine/tokenizer/bytesTokenizer.ts";

const tokenizer = createBytesTokenizer();
const plain = { addSpecialTokens: false };
const keep = { skipSpecialTokens: false };

test("a token is a byte of UTF-8, and text comes back as it was", () => {
  for (const text of ["", "abc", "\u00e9\u4e2d\u{1F999}", "\uFEFFmark", "\0\r\n", "<|bos|>"]) {
    const ids = tokenizer.encode(text, plain);
    assert.deepEqual(ids, [...Buffer.from(text)]);
    assert.equal(tokenizer.decode(ids, keep), text);
  }
});

test("every byte value is a token, shown as text or as bytes", () => {
  for (let id = 0; id < 128; id++) assert.equal(tokenizer.tokenText(id), String.fromCharCode(id));
  for (let id = 128; id < 256; id++) assert.equal(tokenizer.tokenText(id), `bytes:\\x${id.toString(16)}`);
  assert.equal(tokenizer.tokenText(258), "token_id:258");
  assert.equal(tokenizer.tokenText(-1), "token_id:-1");
  assert.equal(tokenizer.vocabSize, 258);
});

test("special tokens are added when asked, never made from text, and left out when asked", () => {
  assert.deepEqual(tokenizer.encode("a", { addSpecialTokens: true }), [bytesBosTokenId, 97]);
  const ids = [bytesBosTokenId, 97, bytesEosTokenId, 400];
  assert.equal(tokenizer.decode(ids, keep), "<|bos|>a<|eos|>");
  assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), "a");
  assert.deepEqual([255, 256, 257, 258].map(tokenizer.isSpecial), [false, true, true, false]);
});

test("bytes that are not UTF-8 become U+FFFD, a lone surrogate too", () => {
  assert.equal(tokenizer.decode([0x61, 0xff, 0x62], keep), "a\uFFFDb");
  assert.deepEqual(tokenizer.encode("\uD800", plain), [0xef, 0xbf, 0xbd]);
});
