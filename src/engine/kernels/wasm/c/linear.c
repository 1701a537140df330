/*
 * linear: y[R,O] = x[R,I] w[O,I]^T + bias, and its gradients dx = dy w, dw = dy^T x, dbias = column sums of dy.
 * Up to FEW_ROWS rows (decoding) w is streamed once, unpacked; more go through the packed product. All have the same
 * order of sums, so the bytes of a row of y or dx do not depend on R.
 */
#include "direct.h"
#include "fewRows.h"

/* Up to so many rows each goes by itself, through w's rows turned in registers; up to so many, side by side. */
#define DIRECT_ROWS 3
#define FEW_ROWS 32

EXPORT(gemm_scratch_floats) int gemmScratchFloats(void) { return GEMM_SCRATCH; }

/* Floats of scratch for linear_forward. */
EXPORT(linear_scratch_floats) int linearScratchFloats(int r, int i) {
  return r <= FEW_ROWS ? fewRowsScratch(r, i) : GEMM_SCRATCH;
}

EXPORT(linear_forward)
void linearForward(int r, int o, int i, const float *x, const float *w, const float *bias, float *y, float *scratch) {
  if (r <= DIRECT_ROWS) {
    for (int p = 0; p < i; p += KC) directRows(r, o, minInt(i - p, KC), x + p, i, w + p, i, y, o, p > 0);
  } else if (r <= FEW_ROWS) {
    fewRows(r, o, i, x, w, y, scratch);
  } else {
    gemm(r, o, i, x, i, 1, w, i, 1, y, o, 0, scratch);
  }
  if (!bias) return;
  for (int row = 0; row < r; row++, y += o) {
    for (int j = 0; j < o; j += 4) {
      int n = minInt(o - j, 4);
      storePart(y + j, ADD(loadPart(y + j, n), loadPart(bias + j, n)), n);
    }
  }
}

EXPORT(linear_grad_x)
void linearGradX(int r, int o, int i, const float *dy, const float *w, float *dx, float *scratch) {
  gemm(r, i, o, dy, o, 1, w, i, 0, dx, i, 0, scratch);
}

EXPORT(linear_grad_w)
void linearGradW(int r, int o, int i, const float *dy, const float *x, float *dw, float *scratch) {
  gemm(o, i, r, dy, o, 0, x, i, 0, dw, i, 0, scratch);
}

/* Rows are added in ascending order. */
EXPORT(linear_grad_bias) void linearGradBias(int r, int o, const float *dy, float *dbias) {
  fillZero(dbias, o);
  for (int row = 0; row < r; row++, dy += o) {
    for (int j = 0; j < o; j += 4) {
      int n = minInt(o - j, 4);
      storePart(dbias + j, ADD(loadPart(dbias + j, n), loadPart(dy + j, n)), n);
    }
  }
}
