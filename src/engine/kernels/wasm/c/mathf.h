/*
 * exp and log of four floats, to about 1 ulp over the whole range: NaN is carried, exp overflows to infinity and
 * underflows through the denormals to 0, log(0) = -infinity, log(negative) = NaN.
 *
 * Argument reduction and polynomial coefficients are those published for expf and logf in S. L. Moshier's Cephes
 * library (netlib.org/cephes, single precision).
 */
#pragma once
#include "simd.h"

/*
 * The constants of expF32, made before a loop and passed in. The compilers (clang, then V8) would else build each
 * of them anew at every use, which costs twice as much as the arithmetic; `hidden` keeps clang from seeing through.
 */
typedef struct {
  v128_t least, most, perLn2, magic, ln2High, ln2Low, p0, p1, p2, p3, p4, p5, one, bias;
} Exp;

INLINE v128_t hidden(float x) {
  __asm__("" : "+r"(x));
  return SPLAT(x);
}

INLINE Exp makeExp(void) {
  Exp e;
  /* Beyond these limits the result is 0 or infinity already; NaN passes. */
  e.least = hidden(-104.0f), e.most = hidden(89.0f);
  e.perLn2 = hidden(1.44269504088896341f), e.magic = hidden(12582912.0f);
  e.ln2High = hidden(-0.693359375f), e.ln2Low = hidden(2.12194440e-4f);
  e.p0 = hidden(1.9875691500e-4f), e.p1 = hidden(1.3981999507e-3f);
  e.p2 = hidden(8.3334519073e-3f), e.p3 = hidden(4.1665795894e-2f);
  e.p4 = hidden(1.6666665459e-1f), e.p5 = hidden(5.0000001201e-1f);
  e.one = hidden(1.0f), e.bias = hidden(1.77964905e-43f); /* whose bits are the integer 127 */
  return e;
}

INLINE v128_t expF32(Exp e, v128_t x) {
  v128_t t = MIN(MAX(x, e.least), e.most);
  /* Adding 1.5 * 2^23 leaves round(t / ln 2) in the low bits of the sum. */
  v128_t shifted = ADD(MUL(t, e.perLn2), e.magic);
  v128_t n = SUB(shifted, e.magic);
  v128_t r = MADD(n, e.ln2Low, MADD(n, e.ln2High, t));
  v128_t p = MADD(MADD(MADD(MADD(MADD(e.p0, r, e.p1), r, e.p2), r, e.p3), r, e.p4), r, e.p5);
  p = ADD(MADD(p, MUL(r, r), r), e.one);
  /* 2^n as two factors, since n runs from -150 to 128 and one exponent field does not. */
  v128_t whole = wasm_i32x4_sub(shifted, e.magic);
  v128_t half = wasm_i32x4_shr(whole, 1);
  v128_t rest = wasm_i32x4_sub(whole, half);
  v128_t scaleA = wasm_i32x4_shl(wasm_i32x4_add(half, e.bias), 23);
  v128_t scaleB = wasm_i32x4_shl(wasm_i32x4_add(rest, e.bias), 23);
  return MUL(MUL(p, scaleA), scaleB);
}

#ifdef __AVX512F__
/* expF32 of 16 floats, the same operations on each. */
INLINE __m512 expWide(__m512 x) {
  __m512 t = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
  __m512 magic = _mm512_set1_ps(12582912.0f), one = _mm512_set1_ps(1.0f);
  __m512 shifted = _mm512_add_ps(_mm512_mul_ps(t, _mm512_set1_ps(1.44269504088896341f)), magic);
  __m512 n = _mm512_sub_ps(shifted, magic);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), t);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.9875691500e-4f), r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), one);
  __m512i whole = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(magic));
  __m512i half = _mm512_srai_epi32(whole, 1), rest = _mm512_sub_epi32(whole, half), bias = _mm512_set1_epi32(127);
  __m512 scaleA = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
  __m512 scaleB = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23));
  return _mm512_mul_ps(_mm512_mul_ps(p, scaleA), scaleB);
}
#endif

INLINE v128_t logF32(v128_t x) {
  v128_t one = SPLAT(1.0f);
  /* Denormals are scaled into the normal range first. */
  v128_t small = wasm_f32x4_lt(x, SPLAT(1.17549435e-38f));
  v128_t y = wasm_v128_bitselect(MUL(x, SPLAT(8388608.0f)), x, small);
  v128_t e = wasm_i32x4_sub(wasm_u32x4_shr(y, 23), wasm_i32x4_splat(126));
  e = wasm_i32x4_sub(e, wasm_v128_and(small, wasm_i32x4_splat(23)));
  v128_t m = wasm_v128_or(wasm_v128_and(y, wasm_i32x4_splat(0x007fffff)), wasm_i32x4_splat(0x3f000000));
  /* m in [0.5, 1) becomes sqrt(0.5) .. sqrt(2), less 1. */
  v128_t low = wasm_f32x4_lt(m, SPLAT(0.707106781186547524f));
  e = wasm_i32x4_add(e, low); /* the mask is -1 where set */
  m = SUB(ADD(m, wasm_v128_and(low, m)), one);
  v128_t z = MUL(m, m), n = wasm_f32x4_convert_i32x4(e);
  v128_t p = MADD(SPLAT(7.0376836292e-2f), m, SPLAT(-1.1514610310e-1f));
  p = MADD(p, m, SPLAT(1.1676998740e-1f));
  p = MADD(p, m, SPLAT(-1.2420140846e-1f));
  p = MADD(p, m, SPLAT(1.4249322787e-1f));
  p = MADD(p, m, SPLAT(-1.6668057665e-1f));
  p = MADD(p, m, SPLAT(2.0000714765e-1f));
  p = MADD(p, m, SPLAT(-2.4999993993e-1f));
  p = MADD(p, m, SPLAT(3.3333331174e-1f));
  p = MUL(MUL(p, m), z);
  p = MADD(n, SPLAT(-2.12194440e-4f), p);
  p = MADD(z, SPLAT(-0.5f), p);
  v128_t result = MADD(n, SPLAT(0.693359375f), ADD(m, p));
  /* The ends: 0, negative, infinity, NaN. */
  v128_t zero = wasm_f32x4_eq(x, SPLAT(0.0f)), negative = wasm_f32x4_lt(x, SPLAT(0.0f));
  v128_t unbounded = wasm_v128_or(wasm_f32x4_ne(x, x), wasm_f32x4_eq(x, SPLAT(__builtin_inff())));
  result = wasm_v128_bitselect(SPLAT(NEG_INFINITY), result, zero);
  result = wasm_v128_bitselect(SPLAT(__builtin_nanf("")), result, negative);
  return wasm_v128_bitselect(x, result, unbounded);
}

INLINE float expScalar(Exp e, float x) { return wasm_f32x4_extract_lane(expF32(e, SPLAT(x)), 0); }
INLINE float logScalar(float x) { return wasm_f32x4_extract_lane(logF32(SPLAT(x)), 0); }

/* 1 / (1 + exp(-x)) */
INLINE v128_t sigmoidF32(Exp e, v128_t x) { return DIV(e.one, ADD(e.one, expF32(e, wasm_f32x4_neg(x)))); }
