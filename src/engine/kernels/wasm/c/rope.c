/*
 * rope: rotary position embedding (Su et al. 2021) in the half-rotation layout, dims i and i + H/2 forming a pair:
 *   y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin.
 * The gradient is the rotation backwards: the same kernel with the sine's sign turned.
 */
#include "simd.h"

/* x and y [B,T,N,H]; cos and sin [T,H/2]; sign +1 forward, -1 backward. */
EXPORT(rope_rotate)
void ropeRotate(int b, int t, int n, int h, const float *x, const float *cos, const float *sin, float sign, float *y) {
  int half = h / 2;
  v128_t direction = SPLAT(sign);
  for (int row = 0; row < b * t; row++) {
    const float *c = cos + row % t * half, *s = sin + row % t * half;
    for (int head = 0; head < n; head++, x += h, y += h) {
      for (int i = 0; i < half; i += 4) {
        int part = minInt(half - i, 4);
        v128_t x1 = loadPart(x + i, part), x2 = loadPart(x + half + i, part);
        v128_t cosine = loadPart(c + i, part), sine = MUL(loadPart(s + i, part), direction);
        storePart(y + i, MADD(wasm_f32x4_neg(x2), sine, MUL(x1, cosine)), part);
        storePart(y + half + i, MADD(x1, sine, MUL(x2, cosine)), part);
      }
    }
  }
}
