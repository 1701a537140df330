/** The strict reader agrees with JSON.parse on honest text, and never fails with anything but its own code. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseHeader, parseHeaderLength } from "../../../src/engine/checkpoint/safetensors.ts";
import { parseStrictJson, toJsonObject } from "../../../src/engine/checkpoint/strictJson.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { fileOf, throwsWith, tinyTensors } from "./fixtures.ts";

const options = { what: "x.json", code: "checkpoint_corrupt" } as const;
const parse = (text: string) => parseStrictJson(Buffer.from(text, "utf8"), options);

test("every honest JSON text gives what JSON.parse gives", () => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 6 }), (text) => {
      fc.pre(!text.includes("__proto__") && text.isWellFormed() && !/\\ud[89a-f]/i.test(text));
      const wrapped = ` {"value" :\t${text}\r\n} `;
      assert.deepEqual(toJsonObject(parse(wrapped), options), JSON.parse(wrapped));
    }),
    { numRuns: 400 },
  );
});

test("any text is either read as JSON.parse reads it, or refused with the code", () => {
  const pieces = fc.constantFrom(
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"a"',
    '"',
    "\\",
    "1",
    "-",
    "0",
    ".",
    "e",
    "true",
    "nul",
    " ",
    "\u0000",
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 12 }), (parts) => {
      const text = parts.join("");
      let ours: unknown;
      try {
        ours = parse(text);
      } catch (error) {
        assert.ok(
          error instanceof CodedError && error.code === "checkpoint_corrupt" && error.message.startsWith("x.json: "),
        );
        return;
      }
      assert.doesNotThrow(() => JSON.parse(text) as unknown, `read ${text} as ${String(ours)}`);
    }),
    { numRuns: 3000 },
  );
});

test("any change of one byte of a weights file's head is refused with the code, or read as an honest file", () => {
  const file = Buffer.from(fileOf(tinyTensors().slice(0, 3)));
  const headBytes = 8 + parseHeaderLength(file.subarray(0, 8), file.length, "f");
  fc.assert(
    fc.property(fc.nat(headBytes - 1), fc.nat(255), (at, byte) => {
      const changed = Buffer.from(file);
      changed[at] = byte;
      try {
        const length = parseHeaderLength(changed.subarray(0, 8), changed.length, "f");
        const { tensors } = parseHeader(changed.subarray(8, 8 + length), changed.length, "f");
        assert.equal(
          tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 8 + length),
          file.length,
        );
      } catch (error) {
        assert.ok(error instanceof CodedError && error.code === "checkpoint_corrupt", String(error));
      }
    }),
    { numRuns: 1500 },
  );
});

test("limits: nesting, number of values, prototype keys, numbers out of range", () => {
  throwsWith(() => parse(`${"[".repeat(65)}${"]".repeat(65)}`), "checkpoint_corrupt", "nested deeper than 64");
  parse(`${"[".repeat(64)}${"]".repeat(64)}`);
  const few = { ...options, maxValues: 3 };
  parseStrictJson(Buffer.from("[1,2]"), few);
  throwsWith(() => parseStrictJson(Buffer.from("[1,2,3]"), few), "checkpoint_corrupt", "too many");
  throwsWith(() => toJsonObject(parse('{"a":{"__proto__":1}}'), options), "checkpoint_corrupt", "__proto__");
  throwsWith(() => toJsonObject(parse('{"a":1e999}'), options), "checkpoint_corrupt", "1e999");
  throwsWith(() => toJsonObject(parse("[]"), options), "checkpoint_corrupt", "not a JSON object");
});
