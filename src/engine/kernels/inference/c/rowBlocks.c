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

/*
 * Doubles as many as one vector holds, and a sum in eight lanes: lane i has the terms of ids that are i modulo 8. In
 * the end (lane 0 + lane 2) + (lane 4 + lane 6) and the same of the odd ones are added up.
 */
#ifdef __AVX512F__
#define LANES 8
typedef __m512d f64;
#define D(x) _mm512_set1_pd(x)
#define DADD(a, b) _mm512_add_pd(a, b)
#define DSUB(a, b) _mm512_sub_pd(a, b)
#define DMUL(a, b) _mm512_mul_pd(a, b)
INLINE f64 scaleOf(f64 x, f64 shifted) {
  return _mm512_castsi512_pd(
      _mm512_add_epi64(_mm512_castpd_si512(x), _mm512_slli_epi64(_mm512_castpd_si512(shifted), 52)));
}
INLINE f64 keepFrom(f64 least, f64 x, f64 value) {
  return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, least, _CMP_GE_OQ), value);
}
#else
#define LANES 2
typedef v128_t f64;
#define D(x) wasm_f64x2_splat(x)
#define DADD(a, b) wasm_f64x2_add(a, b)
#define DSUB(a, b) wasm_f64x2_sub(a, b)
#define DMUL(a, b) wasm_f64x2_mul(a, b)
INLINE f64 scaleOf(f64 x, f64 shifted) { return wasm_i64x2_add(x, wasm_i64x2_shl(shifted, 52)); }
INLINE f64 keepFrom(f64 least, f64 x, f64 value) { return wasm_v128_and(value, wasm_f64x2_ge(x, least)); }
#endif
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
  return keepFrom(D(-708), x, scaleOf(DADD(power, D(1)), shifted));
}

/* Four floats; those that are not there count as minus infinity. */
INLINE v128_t loadLogits(const float *p, int n) {
  if (n >= 4) return load(p);
  if (n <= 0) return SPLAT(NEG_INFINITY);
  return wasm_v128_bitselect(loadPart(p, n), SPLAT(NEG_INFINITY), laneMask(n));
}

typedef struct {
  f64 part[8 / LANES];
} Eight;
#define EACH_PART _Pragma("clang loop unroll(full)") for (int i = 0; i < 8 / LANES; i++)

/* sum += exp((x - m) * scale) of the `n` logits from x on, of which eight are taken; those not there add nothing. */
INLINE Eight addTerms(Eight sum, const float *x, int n, f64 m, f64 scale) {
  v128_t a = loadLogits(x, n), b = loadLogits(x + 4, n - 4);
#ifdef __AVX512F__
  __m512d all = _mm512_cvtps_pd(_mm256_set_m128((__m128)b, (__m128)a));
  sum.part[0] = DADD(sum.part[0], expOf(DMUL(DSUB(all, m), scale)));
#else
  f64 pairs[4] = {a, wasm_i32x4_shuffle(a, a, 2, 3, 2, 3), b, wasm_i32x4_shuffle(b, b, 2, 3, 2, 3)};
  EACH_PART sum.part[i] =
      DADD(sum.part[i], expOf(DMUL(DSUB(wasm_f64x2_promote_low_f32x4(pairs[i]), m), scale)));
#endif
  return sum;
}

INLINE double totalOf(Eight sum) {
  v128_t pairs[4];
  __builtin_memcpy(pairs, &sum, sizeof sum);
  v128_t all = wasm_f64x2_add(wasm_f64x2_add(pairs[0], pairs[1]), wasm_f64x2_add(pairs[2], pairs[3]));
  return wasm_f64x2_extract_lane(all, 0) + wasm_f64x2_extract_lane(all, 1);
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
    double m = wasm_v128_any_true(strange) ? __builtin_nan("") : (double)maxLanes(most);
    Eight sum;
    EACH_PART sum.part[i] = D(0);
    for (int i = 0; i < own; i += 8) sum = addTerms(sum, x + first + i, own - i, D(m), D(scale));
    *maxima++ = m;
    *sums++ = totalOf(sum);
  }
}
