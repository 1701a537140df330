import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeToF32, dtypeBytes, elementCount, encodeFromF32, tensorBytes } from "../../src/ops/dtype.ts";
import { CodedError } from "../../src/ops/errors.ts";

/** Value of a binary16 or bfloat16 pattern by the definition of the format, in double precision. */
function valueOf(bits: number, exponentBits: number, mantissaBits: number): number {
  const sign = bits >>> 15 === 1 ? -1 : 1;
  const exponent = (bits >>> mantissaBits) & (2 ** exponentBits - 1);
  const mantissa = bits & (2 ** mantissaBits - 1);
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return mantissa === 0 ? sign * Infinity : Number.NaN;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa * 2 ** -mantissaBits) * 2 ** (exponent - bias);
}

const formats = [
  { dtype: "F16", exponentBits: 5, mantissaBits: 10 },
  { dtype: "BF16", exponentBits: 8, mantissaBits: 7 },
] as const;

for (const { dtype, exponentBits, mantissaBits } of formats) {
  test(`${dtype}: all 65,536 patterns decode to their value and encode back to themselves`, () => {
    const patterns = Uint16Array.from({ length: 65536 }, (_, index) => index);
    const bytes = new Uint8Array(patterns.buffer);
    const values = decodeToF32(bytes, dtype);
    const back = new Uint16Array(encodeFromF32(values, dtype).buffer);
    for (let bits = 0; bits < 65536; bits += 1) {
      const wanted = valueOf(bits, exponentBits, mantissaBits);
      assert.ok(Object.is(values[bits], wanted), `pattern ${bits.toString(16)}: ${values[bits]} is not ${wanted}`);
      // A signalling NaN comes back quiet: the one bit that may change.
      const quiet = Number.isNaN(wanted) ? 1 << (mantissaBits - 1) : 0;
      assert.equal(back[bits], bits | quiet, `pattern ${bits.toString(16)}`);
    }
  });

  test(`${dtype}: rounds to nearest, ties to even, over the whole range`, () => {
    const patterns = Uint16Array.from({ length: 2 ** 15 }, (_, index) => index);
    const finite = [...decodeToF32(new Uint8Array(patterns.buffer), dtype)].filter((value) => Number.isFinite(value));
    const largest = finite.length - 1;
    for (let index = 0; index < largest; index += 97) {
      const low = finite[index]!;
      const high = finite[index + 1]!;
      const middle = (low + high) / 2;
      const even = index % 2 === 0 ? low : high; // pattern numbers are consecutive: even pattern, even mantissa
      const cases: [number, number][] = [[Math.fround(middle), even]];
      if (Math.fround(middle) === middle && middle > 2 ** -126) {
        cases.push([middle * (1 - 2 ** -23), low], [middle * (1 + 2 ** -23), high]);
      }
      for (const [value, wanted] of cases) {
        const [rounded] = decodeToF32(encodeFromF32(new Float32Array([value, -value]), dtype), dtype);
        assert.equal(rounded, wanted, `${value} between ${low} and ${high}`);
      }
    }
  });
}

test("F16: 65504 is the largest, 65520 and above become infinite, 2^-25 becomes zero", () => {
  const values = new Float32Array([65504, 65519.996, 65520, 1e38, -65520, 2 ** -24, 2 ** -25, 2 ** -25 * 1.0001]);
  assert.deepEqual(
    [...decodeToF32(encodeFromF32(values, "F16"), "F16")],
    [65504, 65504, Infinity, Infinity, -Infinity, 2 ** -24, 0, 2 ** -24],
  );
});

test("BF16: a NaN whose payload is in the lower half stays a NaN, the largest float32 rounds to infinity", () => {
  const bits = new Uint32Array([0x7f800001, 0xff800001, 0x7f7fffff]);
  const words = new Uint16Array(encodeFromF32(new Float32Array(bits.buffer), "BF16").buffer);
  assert.deepEqual([...words], [0x7fc0, 0xffc0, 0x7f80]);
});

test("bytes at an odd offset decode as aligned ones do, and the result shares no memory with them", () => {
  for (const dtype of ["F32", "F16", "BF16"] as const) {
    const bytes = encodeFromF32(new Float32Array([1.5, -2.25, 0.0078125]), dtype);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    const values = decodeToF32(shifted.subarray(1), dtype);
    assert.deepEqual([...values], [1.5, -2.25, 0.0078125]);
    shifted.fill(0);
    assert.equal(values[0], 1.5);
  }
});

test("F32 bytes survive a decode and an encode bit for bit, NaN payloads included", () => {
  const bytes = new Uint8Array([1, 0, 0x80, 0x7f, 0, 0, 0, 0x80, 1, 0, 0, 0]);
  assert.deepEqual(encodeFromF32(decodeToF32(bytes, "F32"), "F32"), bytes);
});

test("half an element is refused", () => {
  assert.throws(
    () => decodeToF32(new Uint8Array(3), "BF16"),
    (error) => error instanceof CodedError && error.code === "checkpoint_corrupt",
  );
});

test("sizes: bytes of an element, of a scalar, of an empty tensor", () => {
  assert.deepEqual([dtypeBytes("F32"), dtypeBytes("F16"), dtypeBytes("BF16")], [4, 2, 2]);
  assert.equal(elementCount([]), 1);
  assert.equal(tensorBytes({ dtype: "F16", shape: [3, 5] }), 30);
  assert.equal(tensorBytes({ dtype: "F32", shape: [0, 7] }), 0);
});
