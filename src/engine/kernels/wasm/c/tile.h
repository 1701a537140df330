/*
 * The register tile every matrix product comes down to: MR x NR results held in registers while one packed
 * panel of the left operand and one of the right are read once, in order. 4 x 8 uses 8 of the 16 vector
 * registers for sums and leaves room for the operands (measured best for 128-bit vectors; unrolling k hurts).
 *
 * Each result is summed over k in ascending order in a single chain of MADDs. It depends on its own row and
 * column only, never on where in a tile or a block it lies.
 */
#pragma once
#include "lanes.h"

#define MR 4

/* How a tile meets what is at C already. */
enum { STORE = 0, ADD_TO = 1, CONTINUE = 2 /* the chain of sums goes on from the value at C */ };

#define EACH_ROW _Pragma("clang loop unroll(full)") for (int r = 0; r < MR; r++)

INLINE void tileFull(const float *a, const float *b, int depth, float *c, int ldc, int mode) {
  Lanes sum[MR];
  EACH_ROW sum[r] = mode == CONTINUE ? loadLanes(c + r * ldc) : zeroLanes();
  for (int k = 0; k < depth; k++, a += MR, b += NR) {
    Lanes right = loadLanes(b);
    EACH_ROW sum[r] = maddLanes(a + r, right, sum[r]);
  }
  if (mode == ADD_TO) {
    EACH_ROW sum[r] = addLanes(loadLanes(c + r * ldc), sum[r]);
  }
  EACH_ROW storeLanes(c + r * ldc, sum[r]);
}

/* A tile that hangs over the edge of C goes through `spare` (MR * NR floats). */
INLINE void tileEdge(
    const float *a, const float *b, int depth, float *c, int ldc, int mode, int m, int n, float *spare) {
  if (mode == CONTINUE) {
    fillZero(spare, MR * NR);
    for (int i = 0; i < m; i++) {
      for (int j = 0; j < n; j++) spare[i * NR + j] = c[i * ldc + j];
    }
  }
  tileFull(a, b, depth, spare, NR, mode == CONTINUE ? CONTINUE : STORE);
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < n; j++) {
      float *at = c + i * ldc + j;
      *at = mode == ADD_TO ? *at + spare[i * NR + j] : spare[i * NR + j];
    }
  }
}

/*
 * C[m,n] from packed panels: all panels of A against all of B, `depth` steps of each. `depthB` is the depth that
 * the panels of B were packed with; it may be more than is used.
 */
INLINE void tiles(
    const float *a, const float *b, int depthB, int m, int n, int depth, float *c, int ldc, int mode, float *spare) {
  for (int j = 0; j < n; j += NR) {
    for (int i = 0; i < m; i += MR) {
      const float *ai = a + i * depth, *bj = b + j * depthB;
      float *at = c + i * ldc + j;
      if (m - i >= MR && n - j >= NR) tileFull(ai, bj, depth, at, ldc, mode);
      else tileEdge(ai, bj, depth, at, ldc, mode, minInt(m - i, MR), minInt(n - j, NR), spare);
    }
  }
}
