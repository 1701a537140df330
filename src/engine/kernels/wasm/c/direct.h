/*
 * Products of few rows, straight from the unpacked matrices: what a token of decoding needs, where packing
 * would read the weights three times instead of once. Both sum in the very order of the register tile (one
 * ascending chain of MADDs from the value at C or from zero), so that a row decoded alone has the same bytes as
 * the same row inside a batch.
 */
#pragma once
#include "simd.h"

/* One group of 4 columns and up to 4 rows of directRows. */
INLINE void directRowsGroup(int m, int cols, int k, const float *a, int lda, const float *b, int ldb, float *c,
                            int ldc, int add) {
  const float *b1 = b + (cols > 1 ? ldb : 0), *b2 = b + (cols > 2 ? 2 * ldb : 0), *b3 = b + (cols > 3 ? 3 * ldb : 0);
  const float *a1 = a + (m > 1 ? lda : 0), *a2 = a + (m > 2 ? 2 * lda : 0), *a3 = a + (m > 3 ? 3 * lda : 0);
  v128_t s0 = SPLAT(0.0f), s1 = s0, s2 = s0, s3 = s0;
  for (int i = 0; i < k; i += 4) {
    int steps = minInt(k - i, 4);
    v128_t w0 = loadPart(b + i, steps), w1 = loadPart(b1 + i, steps);
    v128_t w2 = loadPart(b2 + i, steps), w3 = loadPart(b3 + i, steps);
    transpose4(&w0, &w1, &w2, &w3);
#define DIRECT_ROW(sum, row)                                                 \
  sum = MADD(wasm_v128_load32_splat(row + i), w0, sum);                      \
  if (steps > 1) sum = MADD(wasm_v128_load32_splat(row + i + 1), w1, sum);   \
  if (steps > 2) sum = MADD(wasm_v128_load32_splat(row + i + 2), w2, sum);   \
  if (steps > 3) sum = MADD(wasm_v128_load32_splat(row + i + 3), w3, sum);
    DIRECT_ROW(s0, a)
    if (m > 1) { DIRECT_ROW(s1, a1) }
    if (m > 2) { DIRECT_ROW(s2, a2) }
    if (m > 3) { DIRECT_ROW(s3, a3) }
#undef DIRECT_ROW
  }
#define DIRECT_STORE(sum, row) storePart(row, add ? ADD(loadPart(row, cols), sum) : sum, cols);
  DIRECT_STORE(s0, c)
  if (m > 1) DIRECT_STORE(s1, (c + ldc))
  if (m > 2) DIRECT_STORE(s2, (c + 2 * ldc))
  if (m > 3) DIRECT_STORE(s3, (c + 3 * ldc))
#undef DIRECT_STORE
}

/*
 * One row by 16 columns: four chains at once, since a single one would wait for its own last sum most of the time.
 * k is a multiple of 4.
 */
INLINE void directRow16(int k, const float *a, const float *b, int ldb, float *c, int add) {
  v128_t s0 = SPLAT(0.0f), s1 = s0, s2 = s0, s3 = s0;
  for (int i = 0; i < k; i += 4) {
    v128_t x0 = wasm_v128_load32_splat(a + i), x1 = wasm_v128_load32_splat(a + i + 1);
    v128_t x2 = wasm_v128_load32_splat(a + i + 2), x3 = wasm_v128_load32_splat(a + i + 3);
    const float *p = b + i;
#define DIRECT_FOUR(sum)                                                                            \
  {                                                                                                 \
    v128_t w0 = load(p), w1 = load(p + ldb), w2 = load(p + 2 * ldb), w3 = load(p + 3 * ldb);        \
    transpose4(&w0, &w1, &w2, &w3);                                                                 \
    sum = MADD(x3, w3, MADD(x2, w2, MADD(x1, w1, MADD(x0, w0, sum))));                              \
    p += 4 * ldb;                                                                                   \
  }
    DIRECT_FOUR(s0)
    DIRECT_FOUR(s1)
    DIRECT_FOUR(s2)
    DIRECT_FOUR(s3)
#undef DIRECT_FOUR
  }
  if (add) s0 = ADD(load(c), s0), s1 = ADD(load(c + 4), s1), s2 = ADD(load(c + 8), s2), s3 = ADD(load(c + 12), s3);
  store(c, s0), store(c + 4, s1), store(c + 8, s2), store(c + 12, s3);
}

#define EACH_OF(rows) _Pragma("clang loop unroll(full)") for (int r = 0; r < (rows); r++)

/* `rows` rows, a constant, by 4 columns: the columns are turned once for all of them. k is a multiple of 4. */
INLINE void directFull(
    const int rows, int k, const float *a, int lda, const float *b, int ldb, float *c, int ldc, int add) {
  v128_t sum[8];
  EACH_OF(rows) sum[r] = SPLAT(0.0f);
  for (int i = 0; i < k; i += 4) {
    v128_t w0 = load(b + i), w1 = load(b + ldb + i), w2 = load(b + 2 * ldb + i), w3 = load(b + 3 * ldb + i);
    transpose4(&w0, &w1, &w2, &w3);
    EACH_OF(rows) sum[r] = MADD(wasm_v128_load32_splat(a + r * lda + i), w0, sum[r]);
    EACH_OF(rows) sum[r] = MADD(wasm_v128_load32_splat(a + r * lda + i + 1), w1, sum[r]);
    EACH_OF(rows) sum[r] = MADD(wasm_v128_load32_splat(a + r * lda + i + 2), w2, sum[r]);
    EACH_OF(rows) sum[r] = MADD(wasm_v128_load32_splat(a + r * lda + i + 3), w3, sum[r]);
  }
  EACH_OF(rows) store(c + r * ldc, add ? ADD(load(c + r * ldc), sum[r]) : sum[r]);
}

/* Columns j .. j + cols - 1 (at most 4) of any rows and any k. */
INLINE void directEdge(int m, int cols, int k, const float *a, int lda, const float *b, int ldb, float *c, int ldc,
                       int add) {
  for (int i = 0; i < m; i += 4, a += 4 * lda, c += 4 * ldc) {
    /* The number of rows as a constant, so that unused sums cost nothing. */
    if (m - i >= 4) directRowsGroup(4, cols, k, a, lda, b, ldb, c, ldc, add);
    else if (m - i == 3) directRowsGroup(3, cols, k, a, lda, b, ldb, c, ldc, add);
    else if (m - i == 2) directRowsGroup(2, cols, k, a, lda, b, ldb, c, ldc, add);
    else directRowsGroup(1, cols, k, a, lda, b, ldb, c, ldc, add);
  }
}

/* C[m,n] (+)= sum over k of a[m][k] b[n][k], each row of b read once from memory: 16 of them by all rows of a. */
INLINE void directRows(int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c, int ldc,
                       int add) {
  int j = 0;
  if (k % 4 == 0) {
    for (; j + 16 <= n; j += 16, b += 16 * ldb, c += 16) {
      int i = 0;
      for (; i + 4 <= m; i += m - i >= 8 ? 8 : 4) {
        for (int v = 0; v < 16; v += 4) {
          const float *ai = a + i * lda, *bv = b + v * ldb;
          if (m - i >= 8) directFull(8, k, ai, lda, bv, ldb, c + i * ldc + v, ldc, add);
          else directFull(4, k, ai, lda, bv, ldb, c + i * ldc + v, ldc, add);
        }
      }
      for (; i < m; i++) directRow16(k, a + i * lda, b, ldb, c + i * ldc, add);
    }
  }
  for (; j < n; j += 4, b += 4 * ldb, c += 4) directEdge(m, minInt(n - j, 4), k, a, lda, b, ldb, c, ldc, add);
}

/* C[m,n] += sum over k of a[m][k] b[k][n]: the chain goes on from C. */
INLINE void directColumns(int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c,
                          int ldc) {
  for (int i = 0; i < m; i++, a += lda, c += ldc) {
    int j = 0;
    for (; j + 16 <= n; j += 16) {
      v128_t s0 = load(c + j), s1 = load(c + j + 4), s2 = load(c + j + 8), s3 = load(c + j + 12);
      const float *p = b + j;
      for (int t = 0; t < k; t++, p += ldb) {
        v128_t x = wasm_v128_load32_splat(a + t);
        s0 = MADD(x, load(p), s0), s1 = MADD(x, load(p + 4), s1);
        s2 = MADD(x, load(p + 8), s2), s3 = MADD(x, load(p + 12), s3);
      }
      store(c + j, s0), store(c + j + 4, s1), store(c + j + 8, s2), store(c + j + 12, s3);
    }
    for (; j < n; j += 4) {
      int part = minInt(n - j, 4);
      v128_t sum = loadPart(c + j, part);
      const float *p = b + j;
      for (int t = 0; t < k; t++, p += ldb) sum = MADD(wasm_v128_load32_splat(a + t), loadPart(p, part), sum);
      storePart(c + j, sum, part);
    }
  }
}
