/*
 * As many floats as one vector of the machine holds: 16 with AVX-512, else the four of WebAssembly. For what is done to
 * each float by itself, so that one source says it for both; a part of a vector is loaded and stored as such.
 */
#pragma once
#include "mathf.h"

#ifdef __AVX512F__

#define LANES 16
typedef __m512 Wide;

INLINE __mmask16 partMask(int n) { return n >= LANES ? (__mmask16)0xffff : (__mmask16)((1 << n) - 1); }
/* Whole vectors without a mask: masked stores are slower, and later loads wait for them. */
INLINE Wide loadWide(const float *p, int n) {
  return n >= LANES ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(partMask(n), p);
}
INLINE void storeWide(float *p, Wide x, int n) {
  if (n >= LANES) _mm512_storeu_ps(p, x);
  else _mm512_mask_storeu_ps(p, partMask(n), x);
}
INLINE Wide splatWide(float x) { return _mm512_set1_ps(x); }
INLINE Wide addWide(Wide a, Wide b) { return _mm512_add_ps(a, b); }
INLINE Wide subWide(Wide a, Wide b) { return _mm512_sub_ps(a, b); }
INLINE Wide mulWide(Wide a, Wide b) { return _mm512_mul_ps(a, b); }
INLINE Wide divWide(Wide a, Wide b) { return _mm512_div_ps(a, b); }
INLINE Wide sqrtWide(Wide a) { return _mm512_sqrt_ps(a); }
INLINE Wide maddWide(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Wide negWide(Wide a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
/* Zeros in the lanes from n on. */
INLINE Wide keepWide(Wide x, int n) { return _mm512_maskz_mov_ps(n <= 0 ? (__mmask16)0 : partMask(n), x); }
/* As in mathf.h, whose constants are not needed here: there are registers and broadcasts enough. */
INLINE Wide oneOf(Exp e) {
  (void)e;
  return splatWide(1.0f);
}
INLINE Wide expOf(Exp e, Wide x) {
  (void)e;
  return expWide(x);
}
INLINE Wide sigmoidOf(Exp e, Wide x) { return divWide(oneOf(e), addWide(oneOf(e), expOf(e, negWide(x)))); }
/* The first n lanes of b where they are greater, else a: as MAX. */
INLINE Wide maxWide(Wide a, Wide b, int n) { return _mm512_mask_max_ps(a, partMask(n), b, a); }
INLINE float mostWide(Wide x) {
  v128_t low = MAX(BITS(_mm512_castps512_ps128(x)), BITS(_mm512_extractf32x4_ps(x, 1)));
  v128_t high = MAX(BITS(_mm512_extractf32x4_ps(x, 2)), BITS(_mm512_extractf32x4_ps(x, 3)));
  return maxLanes(MAX(low, high));
}
/* sum += each four lanes of x, the first first. */
INLINE v128_t addFours(v128_t sum, Wide x) {
  sum = ADD(sum, BITS(_mm512_castps512_ps128(x)));
  sum = ADD(sum, BITS(_mm512_extractf32x4_ps(x, 1)));
  sum = ADD(sum, BITS(_mm512_extractf32x4_ps(x, 2)));
  return ADD(sum, BITS(_mm512_extractf32x4_ps(x, 3)));
}

#else

#define LANES 4
typedef v128_t Wide;

#define loadWide loadPart
#define storeWide storePart
#define splatWide SPLAT
#define addWide ADD
#define subWide SUB
#define mulWide MUL
#define divWide DIV
#define sqrtWide wasm_f32x4_sqrt
#define maddWide MADD
#define negWide wasm_f32x4_neg
#define oneOf(e) ((e).one)
#define expOf expF32
#define sigmoidOf sigmoidF32
#define addFours ADD
#define mostWide maxLanes
INLINE Wide keepWide(Wide x, int n) { return wasm_v128_and(x, laneMask(n)); }
INLINE Wide maxWide(Wide a, Wide b, int n) {
  return MAX(a, wasm_v128_bitselect(b, SPLAT(NEG_INFINITY), laneMask(n)));
}

#endif
