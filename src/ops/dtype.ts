/**
 * Tensor bytes (little-endian, as safetensors stores them) to float32 values and back. Rounding is to nearest,
 * ties to even; infinities, subnormals and the sign of zero survive; a NaN stays a NaN and keeps the payload bits
 * that fit (always quiet). It does no arithmetic on the values but that rounding, so a decode followed by an
 * encode gives the same bytes. Input may start at any byte offset; the result never shares memory with it.
 * Source: IEEE 754-2019 binary16 and binary32; bfloat16 is the upper half of binary32.
 */
import { CodedError } from "./errors.ts";
import type { Dtype, TensorInfo } from "./tensor.ts";

const dtypeSizes: Readonly<Record<Dtype, number>> = { F32: 4, F16: 2, BF16: 2 };

/** Halfway from the largest number of a type to the power of two after it: what rounds to infinity. */
const infinities: Readonly<Record<Dtype, number>> = { F32: Infinity, F16: 65_520, BF16: 2 ** 128 - 2 ** 119 };

/** @returns the magnitude from which on a finite float32 value becomes infinite in that type. */
export function infiniteFrom(dtype: Dtype): number {
  return infinities[dtype];
}

/** @returns bytes of one element. */
export function dtypeBytes(dtype: Dtype): number {
  return dtypeSizes[dtype];
}

/** @returns the number of elements of a tensor of that shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** @returns the bytes that a tensor takes. */
export function tensorBytes(info: Pick<TensorInfo, "dtype" | "shape">): number {
  return elementCount(info.shape) * dtypeBytes(info.dtype);
}

/**
 * @param bytes little-endian elements, at any alignment
 * @returns their values, in memory of their own
 * @throws checkpoint_corrupt when the bytes are not a whole number of elements
 */
export function decodeToF32(bytes: Uint8Array, dtype: Dtype): Float32Array {
  const width = dtypeBytes(dtype);
  if (bytes.byteLength % width !== 0) {
    throw new CodedError("checkpoint_corrupt", `${bytes.byteLength} bytes are not a whole number of ${dtype} elements`);
  }
  const count = bytes.byteLength / width;
  if (dtype === "F32") {
    const own = new Uint8Array(bytes.byteLength);
    own.set(bytes);
    swapUnlessLittleEndian(own, 4);
    return new Float32Array(own.buffer);
  }
  const halves = alignedHalves(bytes);
  const values = new Float32Array(count);
  const bits = new Uint32Array(values.buffer);
  if (dtype === "BF16") {
    for (let i = 0; i < count; i += 1) bits[i] = halves[i]! << 16;
  } else {
    for (let i = 0; i < count; i += 1) bits[i] = bitsOfHalf(halves[i]!);
  }
  return values;
}

/** @returns little-endian bytes of `values` in `dtype`, in memory of their own. Too large for F16 becomes infinite. */
export function encodeFromF32(values: Float32Array, dtype: Dtype): Uint8Array<ArrayBuffer> {
  if (dtype === "F32") {
    const own = new Uint8Array(values.byteLength);
    own.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    swapUnlessLittleEndian(own, 4);
    return own;
  }
  // Signed words: engines keep those in registers, and only the bits count.
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  if (dtype === "BF16") {
    for (let i = 0; i < bits.length; i += 1) halves[i] = bfloat16OfBits(bits[i]!);
  } else {
    for (let i = 0; i < bits.length; i += 1) halves[i] = halfOfBits(bits[i]!);
  }
  const own = new Uint8Array(halves.buffer);
  swapUnlessLittleEndian(own, 2);
  return own;
}

/** Bits of binary32 for bits of binary16. */
function bitsOfHalf(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (mantissa << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  // A subnormal is mantissa * 2^-24: shift its leading one out and lower the exponent to match.
  const shift = Math.clz32(mantissa) - 21;
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
}

/** Bits of binary16 nearest to bits of binary32. */
function halfOfBits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude >= 0x38800000) {
    // Normal: rebias the exponent, then round the 13 bits that go.
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  if (magnitude <= 0x33000000) return sign; // 2^-25 and below round to zero
  // Subnormal: count in units of 2^-24.
  const shift = 126 - (magnitude >>> 23);
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  const floor = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  const up = rest > half || (rest === half && (floor & 1) === 1);
  return sign | (floor + (up ? 1 : 0));
}

/** Bits of bfloat16 nearest to bits of binary32. */
function bfloat16OfBits(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40; // rounding must not make a NaN infinite
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** The 16-bit words of `bytes` in native order; a copy only where alignment or byte order asks for one. */
function alignedHalves(bytes: Uint8Array): Uint16Array {
  if (bytes.byteOffset % 2 === 0 && isLittleEndian()) {
    return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  }
  const own = new Uint8Array(bytes.byteLength);
  own.set(bytes);
  swapUnlessLittleEndian(own, 2);
  return new Uint16Array(own.buffer);
}

function isLittleEndian(): boolean {
  return new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
}

function swapUnlessLittleEndian(bytes: Uint8Array, width: 2 | 4): void {
  if (isLittleEndian()) return;
  for (let start = 0; start < bytes.length; start += width) bytes.subarray(start, start + width).reverse();
}
