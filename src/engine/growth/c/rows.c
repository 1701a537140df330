/*
 * One row of a grown matrix from one row of its source, in the source's element type: the ways of
 * src/ops/growth/rows.ts, to the bit. Arithmetic is in double precision, operation for operation as there; the result
 * is rounded to float32 and then, for bfloat16, to nearest even. Built to its own small memory; see rowKernel.ts.
 *
 * Element types: 0 bfloat16, 1 float32. Addresses are aligned to the element.
 */
#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define INLINE static inline __attribute__((always_inline))

typedef union {
  float value;
  uint32_t bits;
} word;

INLINE double load(const void *source, int index, int wide) {
  if (wide) return ((const float *)source)[index];
  word w = {.bits = (uint32_t)((const uint16_t *)source)[index] << 16};
  return w.value;
}

INLINE void store(void *out, int index, double value, int wide) {
  word w = {.value = (float)value};
  if (wide) {
    ((float *)out)[index] = w.value;
    return;
  }
  uint32_t half = (w.bits & 0x7fffffffu) > 0x7f800000u ? (w.bits >> 16) | 0x40u
                                                       : (w.bits + 0x7fffu + ((w.bits >> 16) & 1u)) >> 16;
  ((uint16_t *)out)[index] = (uint16_t)half;
}

/* The last steps of MurmurHash3, as in matrix.ts. */
INLINE int32_t mixed(uint32_t w) {
  w = (w ^ (w >> 16)) * 0x85ebca6bu;
  w = (w ^ (w >> 13)) * 0xc2b2ae35u;
  return (int32_t)(w ^ (w >> 16));
}

INLINE v128_t mixed4(v128_t w) {
  w = wasm_i32x4_mul(wasm_v128_xor(w, wasm_u32x4_shr(w, 16)), wasm_i32x4_const_splat((int)0x85ebca6b));
  w = wasm_i32x4_mul(wasm_v128_xor(w, wasm_u32x4_shr(w, 13)), wasm_i32x4_const_splat((int)0xc2b2ae35));
  return wasm_v128_xor(w, wasm_u32x4_shr(w, 16));
}

INLINE uint32_t row_key(uint32_t key, int row) { return (uint32_t)mixed(key + (uint32_t)row * 0x9e3779b9u); }

/* The share of the first of two copies, in units of 2^-16. */
INLINE int share_of(uint32_t key, int column) {
  return 0x8000 + ((3 * (mixed(key + (uint32_t)column * 0x85ebca6bu) >> 16)) >> 2);
}

INLINE double part_of(uint32_t key, int column) {
  return 1.0 + 1.5 * 0x1p-32 * mixed(key + (uint32_t)column * 0x85ebca6bu);
}

/* Four source values as two pairs of doubles. */
INLINE void load4(const void *source, int index, int wide, v128_t *low, v128_t *high) {
  v128_t four = wide ? wasm_v128_load((const float *)source + index)
                     : wasm_i32x4_shl(wasm_u32x4_load16x4((const uint16_t *)source + index), 16);
  *low = wasm_f64x2_promote_low_f32x4(four);
  *high = wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(four, four, 2, 3, 0, 1));
}

/* Bits of four float32 to those of bfloat16, in the low halves. */
INLINE v128_t halves4(v128_t bits) {
  v128_t top = wasm_u32x4_shr(bits, 16);
  v128_t odd = wasm_v128_and(top, wasm_i32x4_const_splat(1));
  v128_t near = wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(bits, wasm_i32x4_const_splat(0x7fff)), odd), 16);
  v128_t quiet = wasm_v128_or(top, wasm_i32x4_const_splat(0x40));
  v128_t magnitude = wasm_v128_and(bits, wasm_i32x4_const_splat(0x7fffffff));
  v128_t is_nan = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7f800000));
  return wasm_v128_bitselect(quiet, near, is_nan);
}

INLINE void store4(void *out, int index, v128_t low, v128_t high, int wide) {
  v128_t four = wasm_i64x2_shuffle(wasm_f32x4_demote_f64x2_zero(low), wasm_f32x4_demote_f64x2_zero(high), 0, 2);
  if (wide) {
    wasm_v128_store((float *)out + index, four);
    return;
  }
  v128_t halves = halves4(four);
  wasm_v128_store64_lane((uint16_t *)out + index, wasm_u16x8_narrow_i32x4(halves, halves), 0);
}

INLINE void tiled(void *out, const void *source, int width, int copies, double scale, double whole, int wide) {
  v128_t scales = wasm_f64x2_splat(scale), wholes = wasm_f64x2_splat(whole);
  int i = 0;
  for (; i + 4 <= width; i += 4) {
    v128_t low, high;
    load4(source, i, wide, &low, &high);
    low = wasm_f64x2_div(wasm_f64x2_mul(low, scales), wholes);
    high = wasm_f64x2_div(wasm_f64x2_mul(high, scales), wholes);
    store4(out, i, low, high, wide);
  }
  for (; i < width; i++) store(out, i, load(source, i, wide) * scale / whole, wide);
  unsigned long bytes = (unsigned long)width * (wide ? 4 : 2);
  for (int copy = 1; copy < copies; copy++) __builtin_memcpy((char *)out + copy * bytes, out, bytes);
}

INLINE void scaled(void *out, const void *source, int width, const int *first, const int *columns,
                   const double *column_scale, double scale, int divides, int ranked, int wide) {
  for (int i = 0; i < width; i++) {
    int from = first[i], count = first[i + 1] - from;
    double value = load(source, i, wide);
    double whole = !divides ? 1.0 : ranked ? (double)count * (count + 1) / 2.0 : (double)count;
    for (int copy = 0; copy < count; copy++) {
      int column = columns[from + copy];
      double factor = scale * (column_scale ? column_scale[column] : 1.0) * (ranked ? copy + 1.0 : 1.0);
      store(out, column, value * factor / whole, wide);
    }
  }
}

INLINE void elementwise(void *out, const void *source, int width, const int *first, const int *columns,
                        const double *column_scale, double scale, uint32_t key, int row, int wide) {
  uint32_t keyed = row_key(key, row);
  for (int i = 0; i < width; i++) {
    int from = first[i], count = first[i + 1] - from;
    double value = load(source, i, wide) * scale;
    if (count == 2 && !column_scale) {
      int left = columns[from];
      double share = share_of(keyed, left) * 0x1p-16;
      store(out, left, value * share, wide);
      store(out, columns[from + 1], value * (1.0 - share), wide);
      continue;
    }
    double whole = 0.0;
    for (int copy = 0; copy < count; copy++) whole += count == 1 ? 1.0 : part_of(keyed, columns[from + copy]);
    for (int copy = 0; copy < count; copy++) {
      int column = columns[from + copy];
      double factor = column_scale ? column_scale[column] : 1.0;
      store(out, column, value * factor * (count == 1 ? 1.0 : part_of(keyed, column)) / whole, wide);
    }
  }
}

/* `elementwise` where the row is exactly twice the source's, one copy after the other: most of a doubling. */
INLINE void pairs_from(int i, void *out, const void *source, int width, double scale, uint32_t keyed, int wide) {
  for (; i < width; i++) {
    double value = load(source, i, wide) * scale, share = share_of(keyed, i) * 0x1p-16;
    store(out, i, value * share, wide);
    store(out, width + i, value * (1.0 - share), wide);
  }
}

/* Draws four shares, in units of 2^-16, and goes on to the next four words. */
INLINE v128_t shares4(v128_t *words) {
  v128_t drawn = wasm_i32x4_shr(mixed4(*words), 16);
  *words = wasm_i32x4_add(*words, wasm_i32x4_const_splat((int)(4u * 0x85ebca6bu)));
  v128_t tripled = wasm_i32x4_add(drawn, wasm_i32x4_shl(drawn, 1));
  return wasm_i32x4_add(wasm_i32x4_const_splat(0x8000), wasm_i32x4_shr(tripled, 2));
}

INLINE v128_t first_words(uint32_t keyed) {
  const uint32_t step = 0x85ebca6bu;
  return wasm_u32x4_make(keyed, keyed + step, keyed + 2 * step, keyed + 3 * step);
}

INLINE void pairs(void *out, const void *source, int width, double scale, uint32_t key, int row, int wide) {
  uint32_t keyed = row_key(key, row);
  v128_t scales = wasm_f64x2_splat(scale), unit = wasm_f64x2_const_splat(0x1p-16), one = wasm_f64x2_const_splat(1.0);
  v128_t words = first_words(keyed);
  int i = 0;
  for (; i + 4 <= width; i += 4) {
    v128_t low, high;
    load4(source, i, wide, &low, &high);
    low = wasm_f64x2_mul(low, scales);
    high = wasm_f64x2_mul(high, scales);
    v128_t shares = shares4(&words);
    v128_t share_low = wasm_f64x2_mul(unit, wasm_f64x2_convert_low_i32x4(shares));
    v128_t shares_high = wasm_i32x4_shuffle(shares, shares, 2, 3, 0, 1);
    v128_t share_high = wasm_f64x2_mul(unit, wasm_f64x2_convert_low_i32x4(shares_high));
    store4(out, i, wasm_f64x2_mul(low, share_low), wasm_f64x2_mul(high, share_high), wide);
    v128_t rest_low = wasm_f64x2_mul(low, wasm_f64x2_sub(one, share_low));
    v128_t rest_high = wasm_f64x2_mul(high, wasm_f64x2_sub(one, share_high));
    store4(out, width + i, rest_low, rest_high, wide);
  }
  pairs_from(i, out, source, width, scale, keyed, wide);
}

/* Bits of eight finite float32 to bfloat16. */
INLINE v128_t finite_halves8(v128_t low, v128_t high) {
  v128_t bias = wasm_i32x4_const_splat(0x7fff), one = wasm_i32x4_const_splat(1);
  v128_t low_odd = wasm_v128_and(wasm_u32x4_shr(low, 16), one), high_odd = wasm_v128_and(wasm_u32x4_shr(high, 16), one);
  low = wasm_i32x4_add(wasm_i32x4_add(low, bias), low_odd);
  high = wasm_i32x4_add(wasm_i32x4_add(high, bias), high_odd);
  return wasm_i16x8_shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
}

/*
 * The same for bfloat16 without a factor, in float32: 8 bits times a share of 16 are exact there, so one rounding is
 * all there is, as in double. Infinities and NaNs take the slow way.
 */
INLINE void pairs_half(uint16_t *out, const uint16_t *source, int width, uint32_t key, int row) {
  uint32_t keyed = row_key(key, row);
  v128_t words = first_words(keyed), unit = wasm_f32x4_const_splat(0x1p-16f), one = wasm_f32x4_const_splat(1.0f);
  v128_t exponent = wasm_i16x8_const_splat(0x7f80);
  int i = 0;
  for (; i + 8 <= width; i += 8) {
    v128_t eight = wasm_v128_load(source + i);
    if (wasm_v128_any_true(wasm_i16x8_eq(wasm_v128_and(eight, exponent), exponent))) break;
    v128_t zero = wasm_i64x2_const_splat(0);
    v128_t a = wasm_i16x8_shuffle(zero, eight, 0, 8, 1, 9, 2, 10, 3, 11);
    v128_t b = wasm_i16x8_shuffle(zero, eight, 4, 12, 5, 13, 6, 14, 7, 15);
    v128_t share_a = wasm_f32x4_mul(unit, wasm_f32x4_convert_i32x4(shares4(&words)));
    v128_t share_b = wasm_f32x4_mul(unit, wasm_f32x4_convert_i32x4(shares4(&words)));
    wasm_v128_store(out + i, finite_halves8(wasm_f32x4_mul(a, share_a), wasm_f32x4_mul(b, share_b)));
    v128_t rest_a = wasm_f32x4_mul(a, wasm_f32x4_sub(one, share_a));
    v128_t rest_b = wasm_f32x4_mul(b, wasm_f32x4_sub(one, share_b));
    wasm_v128_store(out + width + i, finite_halves8(rest_a, rest_b));
  }
  pairs_from(i, out, source, width, 1.0, keyed, 0);
}

EXPORT(row_tiled)
void row_tiled(void *out, const void *source, int width, int copies, double scale, double whole, int wide) {
  if (wide) tiled(out, source, width, copies, scale, whole, 1);
  else tiled(out, source, width, copies, scale, whole, 0);
}

EXPORT(row_scaled)
void row_scaled(void *out, const void *source, int width, const int *first, const int *columns,
                const double *column_scale, double scale, int divides, int ranked, int wide) {
  if (wide) scaled(out, source, width, first, columns, column_scale, scale, divides, ranked, 1);
  else scaled(out, source, width, first, columns, column_scale, scale, divides, ranked, 0);
}

EXPORT(row_elementwise)
void row_elementwise(void *out, const void *source, int width, const int *first, const int *columns,
                     const double *column_scale, double scale, uint32_t key, int row, int wide) {
  if (wide) elementwise(out, source, width, first, columns, column_scale, scale, key, row, 1);
  else elementwise(out, source, width, first, columns, column_scale, scale, key, row, 0);
}

EXPORT(row_pairs)
void row_pairs(void *out, const void *source, int width, double scale, uint32_t key, int row, int wide) {
  if (!wide && scale == 1.0) pairs_half(out, source, width, key, row);
  else if (wide) pairs(out, source, width, scale, key, row, 1);
  else pairs(out, source, width, scale, key, row, 0);
}
