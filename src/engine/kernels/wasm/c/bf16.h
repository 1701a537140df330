/*
 * float32 rounded to bfloat16, to nearest and ties to even, as the machine's own instruction does it: the upper
 * half of the bits, after half of the lower's range was added. NaN stays NaN, infinity infinity; what lies beyond
 * the largest bfloat16 becomes infinity. Denormals are rounded like all others.
 */
#pragma once
#include "simd.h"

/* Bits of the results, in the lower halves of the lanes. */
INLINE v128_t rounded(v128_t x) {
  v128_t upper = wasm_u32x4_shr(x, 16);
  v128_t even = wasm_v128_and(upper, wasm_i32x4_const_splat(1));
  v128_t nearest = wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(x, wasm_i32x4_const_splat(0x7fff)), even), 16);
  /* Rounding could carry the payload of a NaN into its exponent: it is made quiet instead. */
  v128_t quiet = wasm_v128_or(upper, wasm_i32x4_const_splat(0x40));
  return wasm_v128_bitselect(quiet, nearest, wasm_f32x4_ne(x, x));
}

#ifdef __AVX512F__
/* The same of 16 floats. The instruction for it would make zeros of denormals. */
INLINE __m256i roundedWide(__m512 x) {
  __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
  __m512i even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  __m512i nearest = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
  __mmask16 isNaN = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  nearest = _mm512_mask_or_epi32(_mm512_srli_epi32(nearest, 16), isNaN, upper, _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(nearest);
}
#endif

/* `size` floats rounded, in order. */
INLINE void roundHalves(int size, const float *from, uint16_t *to) {
  int i = 0;
#ifdef __AVX512F__
  for (; i + 16 <= size; i += 16) _mm256_storeu_si256((void *)(to + i), roundedWide(_mm512_loadu_ps(from + i)));
#endif
  for (; i + 8 <= size; i += 8) {
    wasm_v128_store(to + i, wasm_u16x8_narrow_i32x4(rounded(load(from + i)), rounded(load(from + i + 4))));
  }
  for (; i < size; i++) to[i] = (uint16_t)wasm_i32x4_extract_lane(rounded(wasm_v128_load32_zero(from + i)), 0);
}
