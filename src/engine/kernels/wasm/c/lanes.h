/*
 * NR floats as one value, the width of a panel: one vector where the machine's are so wide (AVX-512, NR is 16), else
 * vectors of four. The operations on each float are the same, so are the bytes.
 */
#pragma once
#include "simd.h"

#ifndef NR
#define NR 8
#endif

#ifdef __AVX512F__

typedef __m512 Lanes;

INLINE Lanes zeroLanes(void) { return _mm512_setzero_ps(); }
INLINE Lanes loadLanes(const float *p) { return _mm512_loadu_ps(p); }
/* NR bfloat16 numbers, which are the upper halves of floats. */
INLINE Lanes loadHalves(const uint16_t *p) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
INLINE void storeLanes(float *p, Lanes x) { _mm512_storeu_ps(p, x); }
INLINE Lanes addLanes(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
/* x b + c in each lane, with the float at x. */
INLINE Lanes maddLanes(const float *x, Lanes b, Lanes c) { return _mm512_fmadd_ps(_mm512_set1_ps(*x), b, c); }

#else

typedef struct {
  v128_t v[NR / 4];
} Lanes;

#define EACH_VECTOR _Pragma("clang loop unroll(full)") for (int v = 0; v < NR / 4; v++)

INLINE Lanes zeroLanes(void) {
  Lanes to;
  EACH_VECTOR to.v[v] = SPLAT(0.0f);
  return to;
}

INLINE Lanes loadLanes(const float *p) {
  Lanes to;
  EACH_VECTOR to.v[v] = load(p + 4 * v);
  return to;
}

/* NR bfloat16 numbers, which are the upper halves of floats. */
INLINE Lanes loadHalves(const uint16_t *p) {
  Lanes to;
  EACH_VECTOR to.v[v] = wasm_i32x4_shl(wasm_u32x4_load16x4(p + 4 * v), 16);
  return to;
}

INLINE void storeLanes(float *p, Lanes x) { EACH_VECTOR store(p + 4 * v, x.v[v]); }

INLINE Lanes addLanes(Lanes a, Lanes b) {
  EACH_VECTOR a.v[v] = ADD(a.v[v], b.v[v]);
  return a;
}

/* x b + c in each lane, with the float at x. */
INLINE Lanes maddLanes(const float *x, Lanes b, Lanes c) {
  v128_t left = wasm_v128_load32_splat(x);
  EACH_VECTOR c.v[v] = MADD(left, b.v[v], c.v[v]);
  return c;
}

#endif

/* Asks for the cache line at p, where the machine can be asked. */
INLINE void prefetch(const void *p) {
#ifdef __AVX512F__
  _mm_prefetch((const char *)p, _MM_HINT_T0);
#else
  (void)p;
#endif
}
