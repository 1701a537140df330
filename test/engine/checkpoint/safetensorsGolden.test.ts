/** The reader's verdict on every golden file equals that of the official safetensors library. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseHeader, parseHeaderLength, type SafetensorsHeader } from "../../../src/engine/checkpoint/safetensors.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const official = sharedData("golden", "safetensors");
const lies = sharedData("golden", "hf", "safetensors");

/** @returns the header, or the error that refused the file; any other error is thrown. */
function read(bytes: Uint8Array, name: string): SafetensorsHeader | CodedError {
  try {
    const length = parseHeaderLength(bytes.subarray(0, 8), bytes.length, name);
    return parseHeader(bytes.subarray(8, 8 + length), bytes.length, name);
  } catch (error) {
    if (error instanceof CodedError && error.code === "checkpoint_corrupt" && error.message.includes(name))
      return error;
    throw error;
  }
}

/** The library lets these through; the format's text forbids them, and so do we. */
const stricterThanTheLibrary = new Map([
  ["valid/duplicate_key_last_covers_all.safetensors", /duplicate key "a"/],
  ["valid/test_whitespace_leading_padded_header.safetensors", /does not begin with \{/],
]);

test("official test vectors: same verdict, same tensors", needsShared(official), () => {
  const cases = JSON.parse(readFileSync(join(official as string, "expected.json"), "utf8")) as {
    file: string;
    valid: boolean;
    tensors: string[] | null;
  }[];
  assert.ok(cases.length >= 62);
  for (const { file, valid, tensors } of cases) {
    const result = read(readFileSync(join(official as string, file)), file);
    const stricter = stricterThanTheLibrary.get(file);
    if (stricter !== undefined) {
      assert.match((result as CodedError).message, stricter);
    } else if (valid) {
      assert.ok(!(result instanceof CodedError), `${file} is valid: ${String(result)}`);
      assert.deepEqual(result.tensors.map((tensor) => tensor.name).sort(), [...(tensors ?? [])].sort(), file);
    } else {
      assert.ok(result instanceof CodedError, `${file} must be refused`);
    }
  }
});

interface Lie {
  file: string;
  judge: "refuse" | "accept" | "either";
  data?: Record<string, { dtype: string; shape: number[]; sha256: string }>;
}

test("one lie a file: refused where it must be, and never misread", needsShared(lies), () => {
  const cases = JSON.parse(readFileSync(join(lies as string, "manifest.json"), "utf8")) as Lie[];
  assert.ok(cases.length >= 80);
  for (const { file, judge, data } of cases) {
    const bytes = readFileSync(join(lies as string, file));
    const result = read(bytes, file);
    if (result instanceof CodedError) {
      assert.notEqual(judge, "accept", `${file}: ${result.message}`);
      continue;
    }
    assert.notEqual(judge, "refuse", `${file} must be refused`);
    const got = result.tensors.map(({ name, dtype, shape, offset, sizeBytes }) => {
      const sha256 = createHash("sha256")
        .update(bytes.subarray(offset, offset + sizeBytes))
        .digest("hex");
      return [name, { dtype, shape: [...shape], sha256 }] as const;
    });
    const wanted = new Map(Object.entries(data ?? {}));
    assert.equal(got.length, wanted.size, file);
    for (const [name, tensor] of got) {
      // Element types narrower than a byte are reported by the library in a packed shape.
      if (/^F[46]/.test(tensor.dtype)) continue;
      assert.deepEqual(tensor, wanted.get(name), `${file}: ${name}`);
    }
  }
});
