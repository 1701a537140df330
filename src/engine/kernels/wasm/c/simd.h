/*
 * The vocabulary of every kernel here: four-lane float vectors and the one multiply-add that all of them use.
 *
 * In the relaxed build MADD is the machine's fused multiply-add, in the plain build a product and a sum. A
 * WebAssembly scalar has no fused form, so tails are done in vectors too (partial loads, zeros in the lanes that
 * are not there): that is what lets one element have the same bytes whichever path computed it.
 *
 * The module shares the heap of the tfjs backend, so it may own no memory at all: no static data, no stack
 * frame, no allocation. Constants are immediates, scratch comes from the caller. scripts/buildKernels.ts
 * refuses a module that has a data segment or a stack pointer.
 */
#pragma once
#include <stdint.h>
#include <wasm_simd128.h>

#ifdef __wasm__
#define EXPORT(name) __attribute__((export_name(#name)))
#else
#define EXPORT(name) __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

#ifdef __wasm_relaxed_simd__
#define MADD(a, b, c) wasm_f32x4_relaxed_madd(a, b, c) /* a * b + c */
#else
#define MADD(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#endif

#define SPLAT(x) wasm_f32x4_splat(x)
#define ADD(a, b) wasm_f32x4_add(a, b)
#define SUB(a, b) wasm_f32x4_sub(a, b)
#define MUL(a, b) wasm_f32x4_mul(a, b)
#define DIV(a, b) wasm_f32x4_div(a, b)
#define NEG_INFINITY (-__builtin_inff())

INLINE int minInt(int a, int b) { return a < b ? a : b; }

INLINE v128_t load(const float *p) { return wasm_v128_load(p); }
INLINE void store(float *p, v128_t v) { wasm_v128_store(p, v); }

/* The first n (1..4) floats at p, zeros after them; never reads further. */
INLINE v128_t loadPart(const float *p, int n) {
  if (n >= 4) return load(p);
  if (n == 1) return wasm_v128_load32_zero(p);
  v128_t v = wasm_v128_load64_zero(p);
  return n == 2 ? v : wasm_v128_load32_lane(p + 2, v, 2);
}

/* Writes the first n (1..4) lanes. Always lane 0: clang would merge stores of two lanes into one of a variable
   lane, for which it needs a stack. */
INLINE void storePart(float *p, v128_t v, int n) {
  if (n >= 4) {
    store(p, v);
    return;
  }
  if (n >= 2) {
    wasm_v128_store64_lane(p, v, 0);
    v = wasm_i64x2_shuffle(v, v, 1, 0);
    p += 2;
  }
  if (n != 2) wasm_v128_store32_lane(p, v, 0);
}

/* Lanes below n are all ones, the others zero. */
INLINE v128_t laneMask(int n) { return wasm_i32x4_gt(wasm_i32x4_splat(n), wasm_i32x4_const(0, 1, 2, 3)); }

INLINE float sumLanes(v128_t v) {
  return (wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1)) +
         (wasm_f32x4_extract_lane(v, 2) + wasm_f32x4_extract_lane(v, 3));
}

/*
 * a < b ? b : a and its like: one instruction, where wasm's max and min, which order NaN and the zeros, are eight.
 * If either is NaN the result is a: so a clamp carries NaN with the value first, and a running maximum passes it
 * over with the value second (the sum of the exponentials is where a softmax carries NaN).
 */
#define MAX(a, b) wasm_f32x4_pmax(a, b)
#define MIN(a, b) wasm_f32x4_pmin(a, b)

INLINE float maxLanes(v128_t v) {
  v = MAX(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  v = MAX(v, wasm_i32x4_shuffle(v, v, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(v, 0);
}

/* Four rows become four columns. */
INLINE void transpose4(v128_t *a, v128_t *b, v128_t *c, v128_t *d) {
  v128_t ab01 = wasm_i32x4_shuffle(*a, *b, 0, 4, 1, 5), ab23 = wasm_i32x4_shuffle(*a, *b, 2, 6, 3, 7);
  v128_t cd01 = wasm_i32x4_shuffle(*c, *d, 0, 4, 1, 5), cd23 = wasm_i32x4_shuffle(*c, *d, 2, 6, 3, 7);
  *a = wasm_i64x2_shuffle(ab01, cd01, 0, 2);
  *b = wasm_i64x2_shuffle(ab01, cd01, 1, 3);
  *c = wasm_i64x2_shuffle(ab23, cd23, 0, 2);
  *d = wasm_i64x2_shuffle(ab23, cd23, 1, 3);
}

INLINE void fillZero(float *p, int n) { __builtin_memset(p, 0, (uint32_t)n * sizeof(float)); }
