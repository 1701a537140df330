/*
 * sumOfSquares: the squares of one tensor added up in float64, in a fixed order: eight chains (elements i mod 8),
 * then the chains from first to last.
 */
#include "simd.h"

EXPORT(sum_of_squares) double sumOfSquares(int size, const float *x) {
#ifdef __AVX512F__
  __m512d chains = _mm512_setzero_pd();
  int i = 0;
  for (; i + 8 <= size; i += 8) {
    __m512d wide = _mm512_cvtps_pd(_mm256_loadu_ps(x + i));
    chains = _mm512_add_pd(chains, _mm512_mul_pd(wide, wide));
  }
  __m512d rest = _mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)((1 << (size - i)) - 1), x + i));
  chains = _mm512_add_pd(chains, _mm512_mul_pd(rest, rest));
  v128_t s0 = BITS(_mm512_castpd512_pd128(chains)), s1 = BITS(_mm512_extractf64x2_pd(chains, 1));
  v128_t s2 = BITS(_mm512_extractf64x2_pd(chains, 2)), s3 = BITS(_mm512_extractf64x2_pd(chains, 3));
#else
  v128_t s0 = wasm_f64x2_splat(0.0), s1 = s0, s2 = s0, s3 = s0;
  for (int i = 0; i < size; i += 8) {
    int left = size - i;
    v128_t a = loadPart(x + i, minInt(left, 4)), b = left > 4 ? loadPart(x + i + 4, minInt(left - 4, 4)) : SPLAT(0.0f);
    v128_t a0 = wasm_f64x2_promote_low_f32x4(a), a1 = wasm_f64x2_promote_low_f32x4(wasm_i64x2_shuffle(a, a, 1, 0));
    v128_t b0 = wasm_f64x2_promote_low_f32x4(b), b1 = wasm_f64x2_promote_low_f32x4(wasm_i64x2_shuffle(b, b, 1, 0));
    s0 = wasm_f64x2_add(s0, wasm_f64x2_mul(a0, a0)), s1 = wasm_f64x2_add(s1, wasm_f64x2_mul(a1, a1));
    s2 = wasm_f64x2_add(s2, wasm_f64x2_mul(b0, b0)), s3 = wasm_f64x2_add(s3, wasm_f64x2_mul(b1, b1));
  }
#endif
  v128_t sum = wasm_f64x2_add(wasm_f64x2_add(s0, s1), wasm_f64x2_add(s2, s3));
  return wasm_f64x2_extract_lane(sum, 0) + wasm_f64x2_extract_lane(sum, 1);
}
