/**
 * CPython's `random.Random(seed)` for small seeds: the 32-bit Mersenne Twister, seeded by key, giving doubles
 * of 53 bits. The evaluation harness draws its bootstrap and its few-shot examples from it, so its standard
 * errors and prompts can be had to the last bit. Not a generator for anything else. Source: Matsumoto and
 * Nishimura 1998; CPython, `Modules/_randommodule.c`.
 */
const size = 624;
const middle = 397;

export class MersenneTwister {
  readonly #state = new Uint32Array(size);
  #index = size;

  /** @param seed an integer from 0 to 2^32 - 1 */
  constructor(seed: number) {
    this.#seedWithInteger(19650218);
    const state = this.#state;
    let i = 1;
    for (let step = 0; step < size; step++) {
      const previous = state[i - 1] ?? 0;
      state[i] = ((state[i] ?? 0) ^ Math.imul(previous ^ (previous >>> 30), 1664525)) + seed;
      i = this.#advance(i);
    }
    for (let step = 0; step < size - 1; step++) {
      const previous = state[i - 1] ?? 0;
      state[i] = ((state[i] ?? 0) ^ Math.imul(previous ^ (previous >>> 30), 1566083941)) - i;
      i = this.#advance(i);
    }
    state[0] = 0x80000000;
  }

  /** @returns a number in [0, 1) with 53 random bits, as `random.random()`. */
  random(): number {
    const high = this.#next() >>> 5;
    const low = this.#next() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  /** @returns an integer of `bits` random bits, 1 to 32, as `random.getrandbits`. */
  getRandomBits(bits: number): number {
    return this.#next() >>> (32 - bits);
  }

  #advance(i: number): number {
    if (i + 1 < size) return i + 1;
    this.#state[0] = this.#state[size - 1] ?? 0;
    return 1;
  }

  #seedWithInteger(seed: number): void {
    const state = this.#state;
    state[0] = seed;
    for (let i = 1; i < size; i++) {
      const previous = state[i - 1] ?? 0;
      state[i] = Math.imul(previous ^ (previous >>> 30), 1812433253) + i;
    }
  }

  #next(): number {
    if (this.#index === size) this.#refill();
    let y = this.#state[this.#index++] ?? 0;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #refill(): void {
    const state = this.#state;
    for (let i = 0; i < size; i++) {
      const y = ((state[i] ?? 0) & 0x80000000) | ((state[(i + 1) % size] ?? 0) & 0x7fffffff);
      state[i] = (state[(i + middle) % size] ?? 0) ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#index = 0;
  }
}
