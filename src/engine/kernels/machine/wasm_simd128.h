/*
 * What the kernels use of WebAssembly's vector intrinsics, for processors with AVX-512: so the same sources are built
 * for the machine itself. Names and meanings are those of the WebAssembly specification (SIMD and relaxed SIMD
 * proposals); relaxed_madd is fused. Only what the kernels use is here.
 */
#pragma once
#include <immintrin.h>
#include <stdint.h>

/* The multiply-add of simd.h is that of the relaxed build. */
#define __wasm_relaxed_simd__ 1

typedef int32_t v128_t __attribute__((vector_size(16)));
typedef uint32_t U32 __attribute__((vector_size(16)));
typedef int64_t I64 __attribute__((vector_size(16)));
typedef float F32 __attribute__((vector_size(16)));
typedef double F64 __attribute__((vector_size(16)));

#define ALWAYS static inline __attribute__((always_inline))
#define BITS(x) ((v128_t)(x))

ALWAYS v128_t wasm_v128_load(const void *p) { return BITS(_mm_loadu_ps(p)); }
ALWAYS v128_t wasm_v128_load32_splat(const void *p) { return BITS(_mm_broadcast_ss(p)); }
ALWAYS v128_t wasm_v128_load32_zero(const void *p) { return BITS(_mm_load_ss(p)); }
ALWAYS v128_t wasm_v128_load64_zero(const void *p) { return BITS(_mm_loadu_si64(p)); }
ALWAYS v128_t wasm_u32x4_load16x4(const void *p) { return BITS(_mm_cvtepu16_epi32(_mm_loadu_si64(p))); }
ALWAYS void wasm_v128_store(void *p, v128_t x) { _mm_storeu_ps(p, (__m128)x); }

ALWAYS v128_t wasm_v128_load32_lane(const void *p, v128_t x, int lane) {
  __builtin_memcpy((char *)&x + 4 * lane, p, 4);
  return x;
}
ALWAYS void wasm_v128_store32_lane(void *p, v128_t x, int lane) { __builtin_memcpy(p, (char *)&x + 4 * lane, 4); }
ALWAYS void wasm_v128_store64_lane(void *p, v128_t x, int lane) { __builtin_memcpy(p, (char *)&x + 8 * lane, 8); }

ALWAYS v128_t wasm_f32x4_splat(float x) { return BITS(_mm_set1_ps(x)); }
ALWAYS v128_t wasm_i32x4_splat(int32_t x) { return BITS(_mm_set1_epi32(x)); }
ALWAYS v128_t wasm_f64x2_splat(double x) { return BITS(_mm_set1_pd(x)); }
ALWAYS v128_t wasm_i32x4_const_splat(int32_t x) { return BITS(_mm_set1_epi32(x)); }
#define wasm_i32x4_const(a, b, c, d) ((v128_t){a, b, c, d})

#define FLOATS(name, operator)                                                                                         \
  ALWAYS v128_t wasm_f32x4_##name(v128_t a, v128_t b) { return BITS((F32)a operator(F32) b); }
FLOATS(add, +) FLOATS(sub, -) FLOATS(mul, *) FLOATS(div, /) FLOATS(eq, ==) FLOATS(ne, !=) FLOATS(lt, <)
#undef FLOATS
#define DOUBLES(name, operator)                                                                                        \
  ALWAYS v128_t wasm_f64x2_##name(v128_t a, v128_t b) { return BITS((F64)a operator(F64) b); }
DOUBLES(add, +) DOUBLES(sub, -) DOUBLES(mul, *) DOUBLES(ge, >=)
#undef DOUBLES
#define INTEGERS(name, operator)                                                                                       \
  ALWAYS v128_t wasm_i32x4_##name(v128_t a, v128_t b) { return BITS((U32)a operator(U32) b); }
INTEGERS(add, +) INTEGERS(sub, -)
#undef INTEGERS

ALWAYS v128_t wasm_f32x4_neg(v128_t x) { return BITS(-(F32)x); }
ALWAYS v128_t wasm_f32x4_relaxed_madd(v128_t a, v128_t b, v128_t c) {
  return BITS(_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c));
}
/* b if a < b, else a: the instruction's own second operand where either is NaN. */
ALWAYS v128_t wasm_f32x4_pmax(v128_t a, v128_t b) { return BITS(_mm_max_ps((__m128)b, (__m128)a)); }
/* b if b < a, else a. */
ALWAYS v128_t wasm_f32x4_pmin(v128_t a, v128_t b) { return BITS(_mm_min_ps((__m128)b, (__m128)a)); }
ALWAYS v128_t wasm_f32x4_convert_i32x4(v128_t x) { return BITS(_mm_cvtepi32_ps((__m128i)x)); }
ALWAYS v128_t wasm_f64x2_promote_low_f32x4(v128_t x) { return BITS(_mm_cvtps_pd((__m128)x)); }

ALWAYS v128_t wasm_i32x4_gt(v128_t a, v128_t b) { return a > b; }
ALWAYS v128_t wasm_i32x4_shl(v128_t x, uint32_t by) { return BITS((U32)x << by); }
ALWAYS v128_t wasm_i32x4_shr(v128_t x, uint32_t by) { return x >> (int32_t)by; }
ALWAYS v128_t wasm_u32x4_shr(v128_t x, uint32_t by) { return BITS((U32)x >> by); }
ALWAYS v128_t wasm_i64x2_add(v128_t a, v128_t b) { return BITS(_mm_add_epi64((__m128i)a, (__m128i)b)); }
ALWAYS v128_t wasm_i64x2_shl(v128_t x, uint32_t by) { return BITS(_mm_slli_epi64((__m128i)x, (int)by)); }

ALWAYS v128_t wasm_v128_and(v128_t a, v128_t b) { return a & b; }
ALWAYS v128_t wasm_v128_or(v128_t a, v128_t b) { return a | b; }
/* Bits of a where the mask has ones, else of b. */
ALWAYS v128_t wasm_v128_bitselect(v128_t a, v128_t b, v128_t mask) { return (a & mask) | (b & ~mask); }
ALWAYS int wasm_v128_any_true(v128_t x) { return !_mm_testz_si128((__m128i)x, (__m128i)x); }

ALWAYS v128_t wasm_u16x8_narrow_i32x4(v128_t a, v128_t b) { return BITS(_mm_packus_epi32((__m128i)a, (__m128i)b)); }

#define wasm_i32x4_shuffle(a, b, w, x, y, z) __builtin_shufflevector((v128_t)(a), (v128_t)(b), w, x, y, z)
#define wasm_i64x2_shuffle(a, b, x, y) BITS(__builtin_shufflevector((I64)(a), (I64)(b), x, y))
ALWAYS v128_t wasm_i32x4_replace_lane(v128_t x, int lane, int32_t to) {
  x[lane] = to;
  return x;
}
#define wasm_i32x4_extract_lane(x, lane) (((v128_t)(x))[lane])
#define wasm_f32x4_extract_lane(x, lane) (((F32)(x))[lane])
#define wasm_f64x2_extract_lane(x, lane) (((F64)(x))[lane])
