/**
 * One stream of random numbers per (seed, name), the same on every machine: which tensors are drawn, and in what
 * order, cannot change the numbers of another. The generator is xoshiro128** (Blackman and Vigna, 2018, public
 * domain), its state a hash of seed and name. Not for secrets.
 *
 * Normals come from Marsaglia's polar method with a logarithm of our own made of + - * / alone. ECMAScript fixes
 * those to the bit but leaves Math.log and Math.exp to the engine, so only these give equal bits everywhere
 * (Math.sqrt is correctly rounded by IEEE 754 hardware and by every engine in use).
 */
import { invariant } from "./errors.ts";

export interface RandomStream {
  /** @returns an integer in [0, 2^32). */
  uint32(): number;
  /** @returns a multiple of 2^-53 in [0, 1). */
  uniform(): number;
  /** @returns a draw of N(mean, std^2), in double precision. */
  normal(mean?: number, std?: number): number;
  /** @returns an integer in [0, n), each equally likely; n an integer in [1, 2^32]. */
  below(n: number): number;
  /** Fills with draws of N(0, std^2), rounded to float32. @returns the same array. */
  fillNormal(values: Float32Array, std: number): Float32Array;
}

/**
 * @param seed an integer in [0, 2^53)
 * @param name usually a tensor's; any string
 */
export function seededStream(seed: number, name: string): RandomStream {
  invariant(Number.isSafeInteger(seed) && seed >= 0, `a seed is an integer in [0, 2^53), not ${seed}`);
  const uint32 = xoshiro128(stateOf(seed, name));
  const log = makeLog();
  let spare = Number.NaN;

  function standardNormal(): number {
    if (!Number.isNaN(spare)) {
      const value = spare;
      spare = Number.NaN;
      return value;
    }
    for (;;) {
      // Points of (-1, 1)^2, symmetric about 0 and never on it; about 1.27 tries.
      const x = ((uint32() | 0) + 0.5) * 2 ** -31;
      const y = ((uint32() | 0) + 0.5) * 2 ** -31;
      const square = x * x + y * y;
      if (square >= 1) continue;
      const scale = Math.sqrt((-2 * log(square)) / square);
      spare = y * scale;
      return x * scale;
    }
  }

  return {
    uint32,
    uniform: () => ((uint32() >>> 5) * 2 ** 26 + (uint32() >>> 6)) * 2 ** -53,
    normal: (mean = 0, std = 1) => mean + std * standardNormal(),
    below(n) {
      invariant(Number.isInteger(n) && n >= 1 && n <= 2 ** 32, `below(n) wants an integer in [1, 2^32], not ${n}`);
      const limit = 2 ** 32 - (2 ** 32 % n); // draws at or above it would favour small results
      for (;;) {
        const draw = uint32();
        if (draw < limit) return draw % n;
      }
    },
    fillNormal(values, std) {
      for (let i = 0; i < values.length; i += 1) values[i] = std * standardNormal();
      return values;
    },
  };
}

/** Four words, not all zero: the generator never leaves zero. */
function stateOf(seed: number, name: string): readonly [number, number, number, number] {
  const low = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32);
  const [a, b, c, d] = [0x9e3779b9, 0x243f6a88, 0xb7e15162, 0xdeadbeef].map((salt) => hash(name, low, high, salt));
  return (a! | b! | c! | d!) === 0 ? [1, 0, 0, 0] : [a!, b!, c!, d!];
}

/**
 * xoshiro128** 1.1 from a state of four 32-bit words, not all zero.
 * @returns the generator: each call gives an integer in [0, 2^32)
 */
export function xoshiro128(state: readonly [number, number, number, number]): () => number {
  let [s0, s1, s2, s3] = state;
  return () => {
    const scaled = Math.imul(s1, 5);
    const result = Math.imul((scaled << 7) | (scaled >>> 25), 9) >>> 0;
    const shifted = s1 << 9;
    s2 ^= s0;
    s3 ^= s1;
    s1 ^= s2;
    s0 ^= s3;
    s2 ^= shifted;
    s3 = (s3 << 11) | (s3 >>> 21);
    return result;
  };
}

/** 32-bit hash of UTF-16 code units and two words, with the mixing steps of MurmurHash3 (Appleby, public domain). */
function hash(name: string, low: number, high: number, salt: number): number {
  let state = mixWord(mixWord(salt, low), high);
  for (let i = 0; i < name.length; i += 1) state = mixWord(state, name.charCodeAt(i));
  state ^= name.length;
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35);
  return state ^ (state >>> 16);
}

function mixWord(state: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
  const mixed = state ^ k;
  return (Math.imul((mixed << 13) | (mixed >>> 19), 5) + 0xe6546b64) | 0;
}

/**
 * Natural logarithm of a normal positive double, within 2 ulp, from + - * / only: x = m 2^e with m in
 * [sqrt(1/2), sqrt(2)), log m = 2 artanh((m - 1) / (m + 1)).
 */
function makeLog(): (x: number) => number {
  const value = new Float64Array(1);
  const words = new Uint32Array(value.buffer);
  value[0] = 1;
  const highWord = words[1] === 0x3ff00000 ? 1 : 0;
  return (x) => {
    value[0] = x;
    let exponent = (words[highWord]! >>> 20) - 1023;
    words[highWord] = (words[highWord]! & 0xfffff) | 0x3ff00000;
    let mantissa = value[0]!;
    if (mantissa > Math.SQRT2) {
      mantissa /= 2;
      exponent += 1;
    }
    const s = (mantissa - 1) / (mantissa + 1);
    const z = s * s;
    let series = 0;
    for (let power = 21; power >= 1; power -= 2) series = series * z + 1 / power;
    return 2 * s * series + exponent * Math.LN2;
  };
}
