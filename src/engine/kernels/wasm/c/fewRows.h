/*
 * y[R,O] = x[R,I] w[O,I]^T for a few rows of x, as a step of batched decoding has: the rows of x are packed side by
 * side into panels, and w is read once, where it lies, four of its rows against all panels. Nothing of w is packed, so
 * the weights cross the memory bus once. It is the tile of tile.h with the operands' roles exchanged, and the order of
 * the sums is the same: blocks of KC steps, each one ascending chain of MADDs from zero, added up in order.
 */
#pragma once
#include "gemm.h"
#include "pack.h"

/* Outputs of a tile. */
#define OUTS 4

/* Floats of scratch for `r` rows of `i` inputs. */
INLINE int fewRowsScratch(int r, int i) { return (r + NR - 1) / NR * NR * i + OUTS * NR; }

/* spare[o][row] of OUTS outputs by 4 * `vectors` (a constant) rows, `depth` steps. */
INLINE void fewTile(const int vectors, const float *panel, const float *w0, const float *w1, const float *w2,
                    const float *w3, int depth, float *spare) {
  v128_t s0[NR / 4], s1[NR / 4], s2[NR / 4], s3[NR / 4];
#define EACH _Pragma("clang loop unroll(full)") for (int v = 0; v < vectors; v++)
  EACH s0[v] = s1[v] = s2[v] = s3[v] = SPLAT(0.0f);
  for (int k = 0; k < depth; k++, panel += 4 * vectors) {
    v128_t x[NR / 4];
    EACH x[v] = load(panel + 4 * v);
    v128_t a = wasm_v128_load32_splat(w0 + k), b = wasm_v128_load32_splat(w1 + k);
    EACH s0[v] = MADD(a, x[v], s0[v]);
    EACH s1[v] = MADD(b, x[v], s1[v]);
    v128_t c = wasm_v128_load32_splat(w2 + k), d = wasm_v128_load32_splat(w3 + k);
    EACH s2[v] = MADD(c, x[v], s2[v]);
    EACH s3[v] = MADD(d, x[v], s3[v]);
  }
  EACH store(spare + 4 * v, s0[v]);
  EACH store(spare + NR + 4 * v, s1[v]);
  EACH store(spare + 2 * NR + 4 * v, s2[v]);
  EACH store(spare + 3 * NR + 4 * v, s3[v]);
#undef EACH
}

/* A tile's sums to y: `m` rows, `outs` of the OUTS outputs. */
INLINE void fewStore(const float *spare, int m, int outs, float *y, int ldy, int add) {
  for (int i = 0; i < m; i += 4, y += 4 * ldy) {
    v128_t a = load(spare + i), b = load(spare + NR + i), c = load(spare + 2 * NR + i), d = load(spare + 3 * NR + i);
    transpose4(&a, &b, &c, &d);
#define FEW_ROW(row, sums) \
  if (i + row < m) storePart(y + row * ldy, add ? ADD(loadPart(y + row * ldy, outs), sums) : sums, outs);
    FEW_ROW(0, a)
    FEW_ROW(1, b)
    FEW_ROW(2, c)
    FEW_ROW(3, d)
#undef FEW_ROW
  }
}

INLINE void fewRows(int r, int o, int i, const float *x, const float *w, float *y, float *scratch) {
  float *spare = scratch, *panels = scratch + OUTS * NR;
  for (int row = 0; row < r; row += NR) {
    int m = minInt(r - row, NR);
    packRows(panels + row * i, x + row * i, i, m, i, m > 4 * (NR / 8) ? NR : m > 4 ? 8 : 4);
  }
  for (int j = 0; j < o; j += OUTS, w += OUTS * i) {
    int outs = minInt(o - j, OUTS);
    const float *w1 = w + (outs > 1 ? i : 0), *w2 = w + (outs > 2 ? 2 * i : 0), *w3 = w + (outs > 3 ? 3 * i : 0);
    for (int row = 0; row < r; row += NR) {
      int m = minInt(r - row, NR);
      const float *panel = panels + row * i;
      float *at = y + row * o + j;
      for (int p = 0; p < i; p += KC) {
        int depth = minInt(i - p, KC);
        if (m > 4 * (NR / 8)) fewTile(NR / 4, panel + p * NR, w + p, w1 + p, w2 + p, w3 + p, depth, spare);
        else if (m > 4) fewTile(2, panel + p * 8, w + p, w1 + p, w2 + p, w3 + p, depth, spare);
        else fewTile(1, panel + p * 4, w + p, w1 + p, w2 + p, w3 + p, depth, spare);
        fewStore(spare, m, outs, at, o, p > 0);
      }
    }
  }
}
