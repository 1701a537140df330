/*
 * rmsNorm (Zhang & Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * gain along the last axis. The backward pass
 * computes 1 / rms again from x, which is cheaper than keeping it.
 *   with u = dy * gain, xn = x / rms:  dx = (u - xn * mean(u * xn)) / rms,  dGain = sum over rows of dy * xn
 */
#include "wide.h"

/* Rows of dGain are summed in blocks of this many, and the blocks then added, for the sake of accuracy. */
#define BLOCK 64

/* sum of a * b over one row: four chains of vectors, joined at the end. */
INLINE float dotRow(const float *a, const float *b, int d) {
#ifdef __AVX512F__
  Wide sum = splatWide(0.0f);
  int i = 0;
  for (; i + 16 <= d; i += 16) sum = maddWide(loadWide(a + i, 16), loadWide(b + i, 16), sum);
  v128_t s0 = BITS(_mm512_castps512_ps128(sum)), s1 = BITS(_mm512_extractf32x4_ps(sum, 1));
  v128_t s2 = BITS(_mm512_extractf32x4_ps(sum, 2)), s3 = BITS(_mm512_extractf32x4_ps(sum, 3));
#else
  v128_t s0 = SPLAT(0.0f), s1 = s0, s2 = s0, s3 = s0;
  int i = 0;
  for (; i + 16 <= d; i += 16) {
    s0 = MADD(load(a + i), load(b + i), s0), s1 = MADD(load(a + i + 4), load(b + i + 4), s1);
    s2 = MADD(load(a + i + 8), load(b + i + 8), s2), s3 = MADD(load(a + i + 12), load(b + i + 12), s3);
  }
#endif
  for (; i < d; i += 4) s0 = MADD(loadPart(a + i, minInt(d - i, 4)), loadPart(b + i, minInt(d - i, 4)), s0);
  return sumLanes(ADD(ADD(s0, s1), ADD(s2, s3)));
}

INLINE float inverseRms(const float *x, int d, float eps) {
  return 1.0f / __builtin_sqrtf(dotRow(x, x, d) / (float)d + eps);
}

EXPORT(rms_norm_forward) void rmsNormForward(int r, int d, float eps, const float *x, const float *gain, float *y) {
  for (int row = 0; row < r; row++, x += d, y += d) {
    Wide inverse = splatWide(inverseRms(x, d, eps));
    for (int i = 0; i < d; i += LANES) {
      int n = minInt(d - i, LANES);
      storeWide(y + i, mulWide(mulWide(loadWide(x + i, n), inverse), loadWide(gain + i, n)), n);
    }
  }
}

/* scratch: 2 * d floats. */
EXPORT(rms_norm_backward)
void rmsNormBackward(int r, int d, float eps, const float *x, const float *gain, const float *dy, float *dx,
                     float *dGain, float *scratch) {
  float *block = scratch, *u = scratch + d;
  fillZero(dGain, d), fillZero(block, d);
  for (int row = 0; row < r; row++, x += d, dy += d, dx += d) {
    float inverse = inverseRms(x, d, eps);
    Wide inv = splatWide(inverse);
    for (int i = 0; i < d; i += LANES) {
      int n = minInt(d - i, LANES);
      Wide xn = mulWide(loadWide(x + i, n), inv), g = loadWide(dy + i, n);
      storeWide(block + i, maddWide(g, xn, loadWide(block + i, n)), n);
      storeWide(u + i, mulWide(g, loadWide(gain + i, n)), n);
    }
    Wide mean = splatWide(-(dotRow(u, x, d) * inverse / (float)d) * inverse);
    for (int i = 0; i < d; i += LANES) {
      int n = minInt(d - i, LANES);
      storeWide(dx + i, mulWide(maddWide(loadWide(x + i, n), mean, loadWide(u + i, n)), inv), n);
    }
    if (row % BLOCK != BLOCK - 1 && row != r - 1) continue;
    for (int i = 0; i < d; i += LANES) {
      int n = minInt(d - i, LANES);
      storeWide(dGain + i, addWide(loadWide(dGain + i, n), loadWide(block + i, n)), n);
    }
    fillZero(block, d);
  }
}
