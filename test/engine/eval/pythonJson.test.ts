/** Texts that CPython 3.11.7 wrote: `json.dumps(json.loads(text), indent=2, ensure_ascii=False)`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseStrictJson } from "../../../src/engine/checkpoint/strictJson.ts";
import { pythonFloat, pythonJson } from "../../../src/engine/eval/pythonJson.ts";

function rewrite(text: string): string {
  return pythonJson(parseStrictJson(new TextEncoder().encode(text), { what: "test", code: "dataset_invalid" }));
}

const documents: readonly (readonly [string, string])[] = [
  ["{}", "{}"],
  ["[]", "[]"],
  ['{"a":{}, "b":[]}', '{\n  "a": {},\n  "b": []\n}'],
  [
    '{"b":1,"10":2,"2":3,"a":[1,2.0,null,true,{"x":[[]]}]}',
    '{\n  "b": 1,\n  "10": 2,\n  "2": 3,\n  "a": [\n    1,\n    2.0,\n    null,\n    true,\n    {\n      "x": [\n        []\n      ]\n    }\n  ]\n}',
  ],
  [
    '{"t":"tab\\t quote\\" back\\\\ slash\\/ \\u0000\\u001f\\u007f\\u0080\\u2028 \\b\\f\\n\\r \u00fc \ud83d\ude00"}',
    '{\n  "t": "tab\\t quote\\" back\\\\ slash/ \\u0000\\u001f\u007f\u0080\u2028 \\b\\f\\n\\r \u00fc \ud83d\ude00"\n}',
  ],
  ['{"\u00e9":"\\u00e9\\ud83d\\ude00"}', '{\n  "\u00e9": "\u00e9\ud83d\ude00"\n}'],
  ['"just text"', '"just text"'],
];

const numbers: readonly (readonly [string, string])[] = [
  ["0", "0"],
  ["-0", "0"],
  ["-0.0", "-0.0"],
  ["1.0", "1.0"],
  ["2", "2"],
  ["1e0", "1.0"],
  ["1E5", "100000.0"],
  ["100000.0", "100000.0"],
  ["1e15", "1000000000000000.0"],
  ["1e16", "1e+16"],
  ["123456789012345678.0", "1.2345678901234568e+17"],
  ["1e22", "1e+22"],
  ["1.5e-4", "0.00015"],
  ["0.0001", "0.0001"],
  ["0.00001", "1e-05"],
  ["1.5e-7", "1.5e-07"],
  ["0.1", "0.1"],
  ["-2.5", "-2.5"],
  ["3.141592653589793", "3.141592653589793"],
  ["5e-324", "5e-324"],
  ["1.7976931348623157e308", "1.7976931348623157e+308"],
  ["1e999", "Infinity"],
  ["-1e999", "-Infinity"],
  ["9007199254740993", "9007199254740993"],
  ["123456789012345678901234567890", "123456789012345678901234567890"],
  ["-98765432109876543210", "-98765432109876543210"],
  ["9999999999999998.0", "9999999999999998.0"],
  ["99999999999999990.0", "9.999999999999998e+16"],
  ["12345.678e3", "12345678.0"],
];

test("documents are written as Python writes them", () => {
  for (const [text, expected] of documents) assert.equal(rewrite(text), expected, text);
});

test("numbers are written as Python writes them", () => {
  for (const [text, expected] of numbers) assert.equal(rewrite(text), expected, text);
});

test("floats that are not finite have Python's names", () => {
  assert.deepEqual([NaN, Infinity, -Infinity, -0].map(pythonFloat), ["NaN", "Infinity", "-Infinity", "-0.0"]);
});
