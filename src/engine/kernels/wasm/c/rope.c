/*
 * rope: rotary position embedding (Su et al. 2021) in the half-rotation layout, dims i and i + H/2 forming a pair:
 *   y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin.
 * The gradient is the rotation backwards: the same kernel with the sine's sign turned.
 */
#include "wide.h"

/* x and y [B,T,N,H]; cos and sin [T,H/2]; sign +1 forward, -1 backward. */
EXPORT(rope_rotate)
void ropeRotate(int b, int t, int n, int h, const float *x, const float *cos, const float *sin, float sign, float *y) {
  int half = h / 2;
  Wide direction = splatWide(sign);
  for (int row = 0; row < b * t; row++) {
    const float *c = cos + row % t * half, *s = sin + row % t * half;
    for (int head = 0; head < n; head++, x += h, y += h) {
      for (int i = 0; i < half; i += LANES) {
        int part = minInt(half - i, LANES);
        Wide x1 = loadWide(x + i, part), x2 = loadWide(x + half + i, part);
        Wide cosine = loadWide(c + i, part), sine = mulWide(loadWide(s + i, part), direction);
        storeWide(y + i, maddWide(negWide(x2), sine, mulWide(x1, cosine)), part);
        storeWide(y + half + i, maddWide(x1, sine, mulWide(x2, cosine)), part);
      }
    }
  }
}
