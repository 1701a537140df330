/** One named test per lie that a safetensors file can tell; the bytes are built here. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatHeader,
  maxHeaderBytes,
  parseHeader,
  parseHeaderLength,
  type SafetensorsHeader,
} from "../../../src/engine/checkpoint/safetensors.ts";
import { fileOf, rawFile, throwsWith, tinyTensors } from "./fixtures.ts";

function read(bytes: Uint8Array): SafetensorsHeader {
  const length = parseHeaderLength(bytes.subarray(0, 8), bytes.length, "x.safetensors");
  return parseHeader(bytes.subarray(8, 8 + length), bytes.length, "x.safetensors");
}

const info = (dtype: string, shape: string, offsets: string): string =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`;
const good = info("F32", "[2,2]", "[0,16]");

test("an honest file is read: names, types, shapes, places, metadata", () => {
  const header = read(
    rawFile(`{"__metadata__":{"format":"pt"},"b":${info("F16", "[2]", "[16,20]")},"a":${good}}   `, 20),
  );
  assert.deepEqual(
    header.tensors.map(({ name, dtype, shape, sizeBytes }) => [name, dtype, shape, sizeBytes]),
    [
      ["a", "F32", [2, 2], 16],
      ["b", "F16", [2], 4],
    ],
  );
  assert.equal(header.tensors[0]?.offset, header.dataOffset);
  assert.equal(header.metadata.get("format"), "pt");
});

test("scalars and empty tensors are honest", () => {
  const header = read(rawFile(`{"s":${info("F32", "[]", "[0,4]")},"e":${info("F32", "[0,3]", "[4,4]")}}`, 4));
  assert.deepEqual(
    header.tensors.map((tensor) => tensor.sizeBytes),
    [4, 0],
  );
});

test("names of Object.prototype are only names", () => {
  const bytes = rawFile(`{"__proto__":${info("U8", "[1]", "[0,1]")},"toString":${info("U8", "[1]", "[1,2]")}}`, 2);
  assert.deepEqual(
    read(bytes).tensors.map((tensor) => tensor.name),
    ["__proto__", "toString"],
  );
  assert.equal(({} as { dtype?: string }).dtype, undefined);
});

const lies: readonly (readonly [lie: string, bytes: Uint8Array, words: string | RegExp])[] = [
  ["shorter than its length prefix", new Uint8Array(7), "header too small"],
  ["empty", new Uint8Array(0), "header too small"],
  ["a header longer than the file", rawFile("{}", 0, 3n), "invalid header length"],
  ["a header of 100,000,001 bytes", rawFile("{}", 0, BigInt(maxHeaderBytes) + 1n), "header too large"],
  ["a header of 2^64 - 1 bytes", rawFile("{}", 0, 2n ** 64n - 1n), "header too large"],
  ["a header length whose upper half is set", rawFile("{}", 0, (1n << 32n) | 2n), "header too large"],
  ["a header of no bytes", rawFile("", 0), "does not begin with {"],
  ["a header that begins with white space", rawFile(` {"a":${good}}`, 16), "does not begin with {"],
  ["a byte order mark", rawFile(`\ufeff{"a":${good}}`, 16), "does not begin with {"],
  ["an array for a header", rawFile("[]", 0), "does not begin with {"],
  ["bytes that are not UTF-8", rawFile(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 0), "not UTF-8"],
  ["an overlong encoding", rawFile(Uint8Array.of(0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x7d), 0), "not UTF-8"],
  ["a lone surrogate escape", rawFile(`{"\\ud800":${good}}`, 16), "lone surrogate"],
  ["JSON that ends early", rawFile(`{"a":`, 0), "ends too early"],
  ["a trailing comma", rawFile(`{"a":${good},}`, 16), "key must be a string"],
  ["two objects", rawFile("{}{}", 0), "trailing characters"],
  ["NUL padding", rawFile(`{"a":${good}}\0`, 16), "trailing characters"],
  ["a comment", rawFile("{/**/}", 0), "key must be a string"],
  ["a duplicate tensor", rawFile(`{"a":${good},"a":${good}}`, 16), 'duplicate key "a"'],
  ["a duplicate tensor hidden by an escape", rawFile(`{"a":${good},"\\u0061":${good}}`, 16), 'duplicate key "a"'],
  [
    "a duplicate field",
    rawFile(`{"a":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, 16),
    "duplicate",
  ],
  ["duplicate metadata", rawFile(`{"__metadata__":{},"__metadata__":{},"a":${good}}`, 16), "duplicate key"],
  ["a duplicate key in metadata", rawFile(`{"__metadata__":{"a":"1","a":"2"}}`, 0), "duplicate key"],
  ["metadata that is not text", rawFile(`{"__metadata__":{"a":1}}`, 0), "is not a string"],
  ["nested metadata", rawFile(`{"__metadata__":{"a":{}}}`, 0), "is not a string"],
  ["metadata that is an array", rawFile(`{"__metadata__":[]}`, 0), "__metadata__ is not an object"],
  [
    "5000 nested arrays in an ignored field",
    rawFile(`{"a":{"x":${"[".repeat(5000)}${"]".repeat(5000)}}}`, 0),
    "nested deeper",
  ],
  ["a tensor that is null", rawFile(`{"a":null}`, 0), "not an object"],
  ["a tensor that is an array", rawFile(`{"a":["F32",[1],[0,4]]}`, 4), "not an object"],
  ["no dtype", rawFile(`{"a":{"shape":[4],"data_offsets":[0,16]}}`, 16), "dtype is missing"],
  ["an unknown dtype", rawFile(`{"a":${info("F33", "[4]", "[0,16]")}}`, 16), 'unknown dtype "F33"'],
  ["a dtype named like a method", rawFile(`{"a":${info("toString", "[4]", "[0,16]")}}`, 16), "unknown dtype"],
  ["no shape", rawFile(`{"a":{"dtype":"F32","data_offsets":[0,16]}}`, 16), "shape is missing"],
  ["a fractional extent", rawFile(`{"a":${info("F32", "[2.0,2]", "[0,16]")}}`, 16), "holds 2.0"],
  ["a negative extent", rawFile(`{"a":${info("F32", "[-2,-2]", "[0,16]")}}`, 16), "holds -2"],
  ["an extent of -0", rawFile(`{"a":${info("F32", "[-0]", "[0,0]")}}`, 0), "holds -0"],
  ["an extent that is no number", rawFile(`{"a":${info("F32", "[true,4]", "[0,16]")}}`, 16), "holds boolean"],
  ["an extent of 2^64", rawFile(`{"a":${info("F32", "[18446744073709551616]", "[0,16]")}}`, 16), "2^53 - 1 wanted"],
  ["65 axes", rawFile(`{"a":${info("U8", `[${"1,".repeat(64)}1]`, "[0,1]")}}`, 1), "65 axes"],
  [
    "a shape that wraps to 16 bytes in 64 bits",
    rawFile(`{"a":${info("F32", "[4294967296,4294967296,1]", "[0,16]")}}`, 16),
    "overflows 64 bits",
  ],
  [
    "a shape that overflows before a zero",
    rawFile(`{"a":${info("F32", "[4294967296,4294967296,0]", "[0,0]")}}`, 0),
    "overflows 64 bits",
  ],
  [
    "bytes that overflow while elements do not",
    rawFile(`{"a":${info("F64", "[4503599627370496,1024]", "[0,16]")}}`, 16),
    "overflows 64 bits",
  ],
  ["half a byte", rawFile(`{"a":${info("F4", "[3]", "[0,1]")}}`, 1), "whole bytes"],
  ["no offsets", rawFile(`{"a":{"dtype":"F32","shape":[4]}}`, 16), "data_offsets is missing"],
  ["one offset", rawFile(`{"a":${info("F32", "[4]", "[16]")}}`, 16), "1 numbers, 2 wanted"],
  ["three offsets", rawFile(`{"a":${info("F32", "[4]", "[0,16,32]")}}`, 16), "3 numbers, 2 wanted"],
  ["offsets with an exponent", rawFile(`{"a":${info("F32", "[4]", "[0,16e0]")}}`, 16), "holds 16e0"],
  ["offsets with a leading zero", rawFile(`{"a":${info("F32", "[4]", "[00,16]")}}`, 16), "leading zero"],
  [
    "offsets equal only after rounding",
    rawFile(`{"a":${info("U8", "[9007199254740993]", "[0,9007199254740992]")}}`, 0),
    "2^53 - 1 wanted",
  ],
  ["reversed offsets", rawFile(`{"a":${info("F32", "[4]", "[16,0]")}}`, 16), "invalid offset"],
  ["a range larger than the shape", rawFile(`{"a":${info("F32", "[4]", "[0,32]")}}`, 32), "needs 16"],
  ["a range smaller than the type", rawFile(`{"a":${info("F32", "[4]", "[0,4]")}}`, 4), "needs 16"],
  ["data that begin after byte 0", rawFile(`{"a":${info("F32", "[4]", "[4,20]")}}`, 20), "a gap before it"],
  ["a hole between tensors", rawFile(`{"a":${good},"b":${info("F32", "[1]", "[20,24]")}}`, 24), "a gap before it"],
  ["overlapping tensors", rawFile(`{"a":${good},"b":${info("F32", "[2]", "[12,20]")}}`, 20), "overlaps"],
  ["the same bytes twice", rawFile(`{"a":${good},"b":${good}}`, 16), "overlaps"],
  [
    "an empty tensor past the end",
    rawFile(`{"a":${good},"b":${info("F32", "[0]", "[32,32]")}}`, 16),
    "a gap before it",
  ],
  ["data cut by one byte", rawFile(`{"a":${good}}`, 15), "is cut short"],
  ["one byte too many", rawFile(`{"a":${good}}`, 17), "bytes after the last tensor"],
];

for (const [lie, bytes, words] of lies) {
  test(`refused: ${lie}`, () => throwsWith(() => read(bytes), "checkpoint_corrupt", words));
}

test("a written header is aligned, ordered as the official library orders, and read back", () => {
  const infos = [
    { name: "b", dtype: "F16", shape: [3] },
    { name: "é", dtype: "F32", shape: [1] },
    { name: "a", dtype: "F16", shape: [1] },
    { name: "z", dtype: "F32", shape: [2, 2] },
    { name: "10", dtype: "BF16", shape: [1] },
  ] as const;
  const { bytes, tensors, fileBytes } = formatHeader(infos, { format: "pt" });
  assert.equal(bytes.length % 8, 0);
  assert.deepEqual(
    tensors.map((tensor) => tensor.name),
    ["z", "é", "10", "a", "b"],
  );
  const file = Buffer.concat([bytes, new Uint8Array(fileBytes - bytes.length)]);
  assert.deepEqual(read(file).tensors, tensors);
  const json = new TextDecoder().decode(bytes.subarray(8));
  assert.ok(
    json.startsWith('{"__metadata__":{"format":"pt"},"z":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'),
  );
});

test("every file cut anywhere is refused", () => {
  const file = fileOf(tinyTensors().slice(0, 2));
  for (let length = 0; length < file.length; length += 1) {
    throwsWith(() => read(file.subarray(0, length)), "checkpoint_corrupt");
  }
});
