/*
 * C = A B for row-major matrices in any transposition: the blocked, packed product of Goto and van de Geijn
 * (Anatomy of High-Performance Matrix Multiplication, 2008). Blocks of B (KC x NC) and of A (MC x KC) are packed
 * into panels that stay in the second-level cache, and the register tile of tile.h runs over them.
 *
 * The order of the sums is fixed by K alone: blocks of KC steps, ascending, each summed from zero and added to
 * C. So a row of the result has the same bytes however many other rows are computed with it; linear.c's path
 * for few rows keeps to the same order.
 */
#include "gemm.h"
#include "pack.h"

void gemm(int m, int n, int k, const float *a, int lda, int alongA, const float *b, int ldb, int alongB, float *c,
          int ldc, int accumulate, float *scratch) {
  float *packedB = scratch, *packedA = packedB + NC * KC, *spare = packedA + MC * KC;
  for (int j = 0; j < n; j += NC) {
    int nb = minInt(n - j, NC);
    for (int p = 0; p < k; p += KC) {
      int kb = minInt(k - p, KC);
      int mode = p == 0 && !accumulate ? STORE : ADD_TO;
      packBlock(packedB, alongB ? b + j * ldb + p : b + p * ldb + j, ldb, alongB, nb, kb, NR);
      for (int i = 0; i < m; i += MC) {
        int mb = minInt(m - i, MC);
        packBlock(packedA, alongA ? a + i * lda + p : a + p * lda + i, lda, alongA, mb, kb, MR);
        tiles(packedA, packedB, kb, mb, nb, kb, c + i * ldc + j, ldc, mode, spare);
      }
    }
  }
}
