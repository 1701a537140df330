import assert from "node:assert/strict";
import { test } from "node:test";
import { codePointLength, splitAtSpaces, trim, trimEnd, trimStart } from "../../../src/engine/eval/pythonText.ts";

/** Every code point for which CPython 3.11 says `chr(i).isspace()`. */
const spaces = [
  0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x85, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003,
  0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000,
];

test("white space is what Python says it is, for every character", () => {
  const found: number[] = [];
  for (let code = 0; code < 0x10000; code++) if (trim(String.fromCharCode(code)) === "") found.push(code);
  assert.deepEqual(found, spaces);
});

test("only the wanted side is trimmed", () => {
  const padded = "\u0085 \ta b\u3000\n";
  assert.equal(trimStart(padded), "a b\u3000\n");
  assert.equal(trimEnd(padded), "\u0085 \ta b");
  assert.equal(trim(padded), "a b");
  assert.equal(trim("\uFEFFa"), "\uFEFFa");
});

test("a text that begins or ends in white space has empty words there", () => {
  assert.deepEqual(splitAtSpaces(" a \n b\t"), ["", "a", "b", ""]);
  assert.deepEqual(splitAtSpaces(""), [""]);
});

test("length counts code points", () => {
  assert.equal(codePointLength("a\u00e9\u{1F600}"), 3);
});
