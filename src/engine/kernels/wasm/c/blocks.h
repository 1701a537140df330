/*
 * Products of blocks that lie in the nearest cache, as attention is made of. An operand is made ready once, from vectors
 * that run along the summed index or across it, and used for one or more products.
 *
 * WebAssembly's tile reads packed panels of either side (tile.h). Where the machine has vectors of 16 floats and
 * multiplies by a float in memory, the left side is read where it lies, and a tile is 8 rows by 32 columns: with 4 by 16
 * every multiply-add would wait for the one before. The order of each sum is the same, so are the bytes.
 */
#pragma once
#include "direct.h"
#include "pack.h"
#include "tile.h"

INLINE int roundUp(int x, int to) { return (x + to - 1) / to * to; }

#ifdef __AVX512F__

#define LEFT_ROWS 8

/* Floats of room for a left side of m rows. */
INLINE int leftFloats(int m, int depth) { return m * roundUp(depth, NR); }

/* A(i,k) = at[i * row + k * step], one of the two is 1; the rows up to a multiple of LEFT_ROWS can be read. */
typedef struct {
  const float *at;
  int row, step;
} Left;

/* B(k,j) = at[k * ld + j]; the columns up to a multiple of NR can be read. */
typedef struct {
  const float *at;
  int ld;
} Right;

/* The first n (also less than none) lanes of a vector in memory; whole ones without a mask, as in wide.h. */
INLINE __mmask16 firstLanes(int n) { return n >= NR ? (__mmask16)0xffff : n <= 0 ? 0 : (__mmask16)((1 << n) - 1); }
INLINE __m512 loadFirst(const float *p, int n) {
  return n >= NR ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(firstLanes(n), p);
}
INLINE void storeFirst(float *p, __m512 x, int n) {
  if (n >= NR) _mm512_storeu_ps(p, x);
  else _mm512_mask_storeu_ps(p, firstLanes(n), x);
}

/* Rows of a matrix, with zeros after them up to a multiple of NR columns. */
INLINE void copyRows(float *to, const float *source, int stride, int rows, int columns) {
  int ld = roundUp(columns, NR);
  for (int i = 0; i < rows; i++, to += ld, source += stride) {
    for (int j = 0; j < columns; j += NR) {
      _mm512_storeu_ps(to + j, loadFirst(source + j, columns - j));
    }
  }
}

INLINE Left leftAlong(float *room, const float *source, int stride, int m, int depth) {
  copyRows(room, source, stride, m, depth);
  return (Left){room, roundUp(depth, NR), 1};
}

/* Of scores, whose rows lie close together. */
INLINE Left leftAlongScores(float *room, const float *scores, int stride, int m, int depth) {
  (void)room, (void)m, (void)depth;
  return (Left){scores, stride, 1};
}

/* Of at most LEFT_ROWS rows of scores. */
INLINE Left leftTile(float *room, const float *scores, int stride, int m, int depth) {
  return leftAlongScores(room, scores, stride, m, depth);
}

INLINE Left leftAcross(float *room, const float *scores, int stride, int m, int depth) {
  (void)room, (void)m, (void)depth;
  return (Left){scores, 1, stride};
}

INLINE Right rightAlong(float *room, const float *source, int stride, int n, int depth) {
  int width = roundUp(n, NR);
  packRows(room, source, stride, n, depth, width);
  return (Right){room, width};
}

INLINE Right rightAcross(float *room, const float *source, int stride, int n, int depth) {
  copyRows(room, source, stride, depth, n);
  return (Right){room, roundUp(n, NR)};
}

#define EACH_LEFT _Pragma("clang loop unroll(full)") for (int r = 0; r < LEFT_ROWS; r++)
#define EACH_QUARTER _Pragma("clang loop unroll(full)") for (int p = 0; p < 4; p++)
#define EACH_HALF _Pragma("clang loop unroll(full)") for (int p = 0; p < vectors; p++)

/* 8 rows by `vectors` (a constant) times 16 columns, of which `m` and `n` are there. */
INLINE void blockTile(const int vectors, const int across, Left a, Right b, int depth, float *c, int ldc, int mode,
                      int m, int n) {
  __m512 sum[LEFT_ROWS][2];
  EACH_LEFT EACH_HALF sum[r][p] = _mm512_setzero_ps();
  if (mode == CONTINUE) {
    EACH_LEFT if (r < m) {
      EACH_HALF sum[r][p] = loadFirst(c + r * ldc + p * NR, n - p * NR);
    }
  }
  const float *left = a.at, *right = b.at;
  for (int k = 0; k < depth; k++, right += b.ld, left += across ? a.step : 1) {
    __m512 columns[2];
    EACH_HALF columns[p] = _mm512_loadu_ps(right + p * NR);
    EACH_LEFT {
      __m512 x = _mm512_set1_ps(left[across ? r : r * a.row]);
      EACH_HALF sum[r][p] = _mm512_fmadd_ps(x, columns[p], sum[r][p]);
    }
  }
  EACH_LEFT if (r < m) {
    EACH_HALF {
      float *at = c + r * ldc + p * NR;
      if (mode == ADD_TO) sum[r][p] = _mm512_add_ps(loadFirst(at, n - p * NR), sum[r][p]);
      storeFirst(at, sum[r][p], n - p * NR);
    }
  }
}

#define BLOCK_TILE(name, vectors, across)                                                                              \
  static __attribute__((noinline)) void name(Left a, Right b, int depth, float *c, int ldc, int mode, int m, int n) {  \
    blockTile(vectors, across, a, b, depth, c, ldc, mode, m, n);                                                       \
  }
BLOCK_TILE(tileAlong1, 1, 0)
BLOCK_TILE(tileAlong2, 2, 0)
BLOCK_TILE(tileAcross1, 1, 1)
BLOCK_TILE(tileAcross2, 2, 1)
#undef BLOCK_TILE

/* C[m,n] from the first `depth` steps of both; `spare` is not used. */
INLINE void product(Left a, Right b, int m, int n, int depth, float *c, int ldc, int mode, float *spare) {
  (void)spare;
  int across = a.row == 1;
  for (int j = 0; j < n; j += 2 * NR) {
    Left ai = a;
    Right bj = {b.at + j, b.ld};
    for (int i = 0; i < m; i += LEFT_ROWS, ai.at += LEFT_ROWS * a.row) {
      float *at = c + i * ldc + j;
      int rows = minInt(m - i, LEFT_ROWS), columns = n - j;
      if (columns > NR) (across ? tileAcross2 : tileAlong2)(ai, bj, depth, at, ldc, mode, rows, columns);
      else (across ? tileAcross1 : tileAlong1)(ai, bj, depth, at, ldc, mode, rows, columns);
    }
  }
}

/* c[n] += sum over k of a[k] b[k][n]: the chain goes on from c. */
INLINE void rowOnto(int n, int depth, const float *a, const float *b, int ldb, float *c) {
  for (int j = 0; j < n; j += 4 * NR) {
    __m512 sum[4];
    __mmask16 lanes[4];
    EACH_QUARTER lanes[p] = firstLanes(n - j - p * NR), sum[p] = _mm512_maskz_loadu_ps(lanes[p], c + j + p * NR);
    for (int k = 0; k < depth; k++) {
      __m512 x = _mm512_set1_ps(a[k]);
      const float *row = b + k * ldb + j;
      EACH_QUARTER sum[p] = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(lanes[p], row + p * NR), sum[p]);
    }
    EACH_QUARTER _mm512_mask_storeu_ps(c + j + p * NR, lanes[p], sum[p]);
  }
}

#else

#define LEFT_ROWS MR

INLINE int leftFloats(int m, int depth) { return m * depth; }

/* Panels of MR rows. */
typedef struct {
  const float *panels;
} Left;

/* Panels of NR columns, packed with so many steps; a product may use fewer. */
typedef struct {
  const float *panels;
  int depth;
} Right;

INLINE Left leftAlong(float *room, const float *source, int stride, int m, int depth) {
  packBlock(room, source, stride, 1, m, depth, MR);
  return (Left){room};
}

INLINE Left leftAlongScores(float *room, const float *scores, int stride, int m, int depth) {
  return leftAlong(room, scores, stride, m, depth);
}

INLINE Left leftTile(float *room, const float *scores, int stride, int m, int depth) {
  packRows(room, scores, stride, m, depth, MR);
  return (Left){room};
}

INLINE Left leftAcross(float *room, const float *source, int stride, int m, int depth) {
  packBlock(room, source, stride, 0, m, depth, MR);
  return (Left){room};
}

INLINE Right rightAlong(float *room, const float *source, int stride, int n, int depth) {
  packBlock(room, source, stride, 1, n, depth, NR);
  return (Right){room, depth};
}

INLINE Right rightAcross(float *room, const float *source, int stride, int n, int depth) {
  packBlock(room, source, stride, 0, n, depth, NR);
  return (Right){room, depth};
}

/* C[m,n] from the first `depth` steps of both. */
INLINE void product(Left a, Right b, int m, int n, int depth, float *c, int ldc, int mode, float *spare) {
  tiles(a.panels, b.panels, b.depth, m, n, depth, c, ldc, mode, spare);
}

/* c[n] += sum over k of a[k] b[k][n]: the chain goes on from c. */
INLINE void rowOnto(int n, int depth, const float *a, const float *b, int ldb, float *c) {
  directColumns(1, n, depth, a, depth, b, ldb, c, n);
}

#endif
