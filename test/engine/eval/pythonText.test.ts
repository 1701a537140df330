import assert from "node:assert/strict";
import { test } from "node:test";
import {
  capitalize,
  codePointLength,
  splitAtSpaces,
  trim,
  trimEnd,
  trimStart,
} from "../../../src/engine/eval/pythonText.ts";

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

/** What CPython 3.11.7 makes of these: `str.capitalize()`. */
const capitalized: readonly (readonly [string, string])[] = [
  ["", ""],
  ["he WALKS Off", "He walks off"],
  ["[step] Take", "[step] take"],
  ["\u00e9CLAIR", "\u00c9clair"],
  ["\u00dfHARP", "Ssharp"],
  ["\u0149a", "\u02bcNa"],
  ["\u01c6ABO", "\u01c5abo"],
  ["\u01c5A", "\u01c5a"],
  ["\u01f2x", "\u01f2x"],
  ["\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0"],
  ["\u1fb3\u0391\u03a3", "\u1fbc\u03b1\u03c2"],
  ["\u1fb2\u0391", "\u1fba\u0345\u03b1"],
  ["\u1fb7\u03c3", "\u0391\u0342\u0345\u03c3"],
  ["\u1f88B", "\u1f88b"],
  ["\ufb01N", "Fin"],
  ["\ufb03X", "Ffix"],
  ["\u0130STANBUL", "\u0130stanbul"],
  ["\u039f\u0394\u039f\u03a3 \u0391\u03a3\u0391 \u03a3", "\u039f\u03b4\u03bf\u03c2 \u03b1\u03c3\u03b1 \u03c3"],
  ["\u03a3", "\u03a3"],
  ["\u03a3\u0391\u03a3.", "\u03a3\u03b1\u03c2."],
  ["\ud801\udc28\ud801\udc00", "\ud801\udc00\ud801\udc28"],
  ["1ABC", "1abc"],
];

test("capitalize gives title case to the first character and lower case to the rest, as Python", () => {
  for (const [text, expected] of capitalized) assert.equal(capitalize(text), expected, text);
});
