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

/* `size` floats rounded, in order. */
INLINE void roundHalves(int size, const float *from, uint16_t *to) {
  int i = 0;
  for (; i + 8 <= size; i += 8) {
    wasm_v128_store(to + i, wasm_u16x8_narrow_i32x4(rounded(load(from + i)), rounded(load(from + i + 4))));
  }
  for (; i < size; i++) to[i] = (uint16_t)wasm_i32x4_extract_lane(rounded(wasm_v128_load32_zero(from + i)), 0);
}
