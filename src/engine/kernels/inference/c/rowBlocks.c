/*
 * What sampling and log-probabilities need of a row of logits: for each block of 256 ids its largest logit m, and the
 * sum of exp((logit - m) * scale) in double precision. `../rowBlocks.ts` does the same in JavaScript: every product
 * and sum here is one there, in the same order, and none is fused, so both give the same bits in every build.
 *
 * exp: x = k ln 2 + r with ln 2 in two parts (Cody and Waite 1980), the Taylor series of e^r up to r^13 / 13! (what
 * follows is below 2^-57 for |r| <= ln 2 / 2), the rounding of r made good, 2^k added to the exponent. x is at most 0;
 * below -708 the result is 0, since a term of 1e-308 is nothing in a sum that begins with 1.
 */
#include "../../wasm/c/simd.h"

#define BLOCK 256

typedef v128_t f64;
#define D(x) wasm_f64x2_splat(x)
#define DADD(a, b) wasm_f64x2_add(a, b)
#define DSUB(a, b) wasm_f64x2_sub(a, b)
#define DMUL(a, b) wasm_f64x2_mul(a, b)
#define PAIR(a, b, x) DADD(a, DMUL(b, x)) /* a + b x */

INLINE f64 expOf(f64 x) {
  /* Adding 1.5 * 2^52 rounds to an integer, whose bits are then the low ones of the sum. */
  f64 shifted = DADD(DMUL(x, D(0x1.71547652b82fep+0)), D(0x1.8p52));
  f64 k = DSUB(shifted, D(0x1.8p52));
  f64 high = DSUB(x, DMUL(k, D(0x1.62e42feep-1)));
  f64 low = DMUL(k, D(0x1.a39ef35793c76p-33));
  f64 r = DSUB(high, low);
  f64 lost = DSUB(DSUB(high, r), low);
  /* Estrin's scheme: sums of pairs, which need not wait for each other. */
  f64 r2 = DMUL(r, r), r4 = DMUL(r2, r2);
  f64 q2 = PAIR(D(0.5), D(1.0 / 6), r);
  f64 q4 = PAIR(D(1.0 / 24), D(1.0 / 120), r);
  f64 q6 = PAIR(D(1.0 / 720), D(1.0 / 5040), r);
  f64 q8 = PAIR(D(1.0 / 40320), D(1.0 / 362880), r);
  f64 q10 = PAIR(D(1.0 / 3628800), D(1.0 / 39916800), r);
  f64 q12 = PAIR(D(1.0 / 479001600), D(1.0 / 6227020800), r);
  f64 q = PAIR(PAIR(q2, q4, r2), PAIR(PAIR(q6, q8, r2), PAIR(q10, q12, r2), r4), r4);
  f64 power = DADD(r, DADD(DMUL(r2, q), lost));
  f64 scaled = wasm_i64x2_add(DADD(power, D(1)), wasm_i64x2_shl(shifted, 52));
  return wasm_v128_and(scaled, wasm_f64x2_ge(x, D(-708)));
}

/* exp((x - m) * scale) of two floats in the lower half of x. */
INLINE f64 termOf(v128_t x, f64 m, f64 scale) {
  return expOf(DMUL(DSUB(wasm_f64x2_promote_low_f32x4(x), m), scale));
}

INLINE v128_t upperHalf(v128_t x) { return wasm_i32x4_shuffle(x, x, 2, 3, 2, 3); }

/* Four floats; those that are not there count as minus infinity. */
INLINE v128_t loadLogits(const float *p, int n) {
  if (n >= 4) return load(p);
  if (n <= 0) return SPLAT(NEG_INFINITY);
  return wasm_v128_bitselect(loadPart(p, n), SPLAT(NEG_INFINITY), laneMask(n));
}

/*
 * size: logits of the row from x on, in whole blocks but for the last one. maxima, sums: one of each for each block.
 * A block with NaN has a maximum of NaN, one with nothing but minus infinity a sum of 0.
 */
EXPORT(row_blocks) void rowBlocks(int size, double scale, const float *x, double *maxima, double *sums) {
  for (int first = 0; first < size; first += BLOCK) {
    int own = minInt(size - first, BLOCK);
    v128_t most = SPLAT(NEG_INFINITY), strange = SPLAT(0);
    for (int i = 0; i < own; i += 4) {
      v128_t a = loadLogits(x + first + i, own - i);
      most = MAX(most, a);
      strange = wasm_v128_or(strange, wasm_f32x4_ne(a, a));
    }
    f64 m = D(wasm_v128_any_true(strange) ? __builtin_nan("") : (double)maxLanes(most));
    f64 s0 = D(0), s1 = D(0), s2 = D(0), s3 = D(0);
    for (int i = 0; i < own; i += 8) {
      v128_t a = loadLogits(x + first + i, own - i);
      v128_t b = loadLogits(x + first + i + 4, own - i - 4);
      s0 = DADD(s0, termOf(a, m, D(scale)));
      s1 = DADD(s1, termOf(upperHalf(a), m, D(scale)));
      s2 = DADD(s2, termOf(b, m, D(scale)));
      s3 = DADD(s3, termOf(upperHalf(b), m, D(scale)));
    }
    f64 sum = DADD(DADD(s0, s1), DADD(s2, s3));
    *maxima++ = wasm_f64x2_extract_lane(m, 0);
    *sums++ = wasm_f64x2_extract_lane(sum, 0) + wasm_f64x2_extract_lane(sum, 1);
  }
}
