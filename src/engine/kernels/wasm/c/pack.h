/*
 * Packing: a block of a matrix is copied into panels `width` (a multiple of 4) wide, each stored step by step
 * along the summed index, so that the tile kernel reads one stream in order whatever the layout of the source.
 * Columns beyond the matrix are zeros. Two sources: vectors that run along the summed index (copied through
 * 4x4 transposes), and vectors that run across it (copied as they lie).
 */
#pragma once
#include "simd.h"

/* panel[k][j] = source[j * stride + k] for j < n, k < depth. */
INLINE void packRows(float *panel, const float *source, int stride, int n, int depth, int width) {
  for (int j = 0; j < width; j += 4) {
    int rows = minInt(n - j, 4);
    const float *p = source + j * stride;
    float *out = panel + j;
    for (int k = 0; k < depth; k += 4, out += 4 * width) {
      int steps = minInt(depth - k, 4);
      v128_t a = SPLAT(0.0f), b = a, c = a, d = a;
      if (rows > 0) a = loadPart(p + k, steps);
      if (rows > 1) b = loadPart(p + stride + k, steps);
      if (rows > 2) c = loadPart(p + 2 * stride + k, steps);
      if (rows > 3) d = loadPart(p + 3 * stride + k, steps);
      transpose4(&a, &b, &c, &d);
      store(out, a);
      if (steps > 1) store(out + width, b);
      if (steps > 2) store(out + 2 * width, c);
      if (steps > 3) store(out + 3 * width, d);
    }
  }
}

/* panel[k][j] = source[k * stride + j] for j < n, k < depth. */
INLINE void packColumns(float *panel, const float *source, int stride, int n, int depth, int width) {
  for (int k = 0; k < depth; k++, source += stride, panel += width) {
    for (int j = 0; j < width; j += 4) {
      store(panel + j, n - j > 0 ? loadPart(source + j, n - j) : SPLAT(0.0f));
    }
  }
}

/*
 * All panels of a block of `n` vectors and `depth` steps, one after another (each width * depth floats).
 * `along`: the vectors run along the summed index. Returns the end of what was written.
 */
INLINE float *packBlock(float *panels, const float *source, int stride, int along, int n, int depth, int width) {
  for (int j = 0; j < n; j += width, panels += width * depth) {
    if (along) packRows(panels, source + j * stride, stride, n - j, depth, width);
    else packColumns(panels, source + j, stride, n - j, depth, width);
  }
  return panels;
}
