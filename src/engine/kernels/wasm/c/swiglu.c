/*
 * swiglu (Shazeer 2020): silu(gate) * up, elementwise, where silu(x) = x sigmoid(x) and
 * silu'(x) = sigmoid(x) (1 + x (1 - sigmoid(x))).
 */
#include "wide.h"

INLINE void forwardPart(Exp e, int n, const float *gate, const float *up, float *y) {
  Wide g = loadWide(gate, n);
  storeWide(y, mulWide(mulWide(g, sigmoidOf(e, g)), loadWide(up, n)), n);
}

EXPORT(swiglu_forward) void swigluForward(int size, const float *gate, const float *up, float *y) {
  Exp e = makeExp();
  int i = 0;
  for (; i + LANES <= size; i += LANES) forwardPart(e, LANES, gate + i, up + i, y + i);
  if (i < size) forwardPart(e, size - i, gate + i, up + i, y + i);
}

INLINE void backwardPart(
    Exp e, int n, const float *gate, const float *up, const float *dy, float *dGate, float *dUp) {
  Wide g = loadWide(gate, n), grad = loadWide(dy, n), s = sigmoidOf(e, g);
  Wide slope = mulWide(s, maddWide(g, subWide(oneOf(e), s), oneOf(e)));
  storeWide(dGate, mulWide(mulWide(grad, loadWide(up, n)), slope), n);
  storeWide(dUp, mulWide(grad, mulWide(g, s)), n);
}

EXPORT(swiglu_backward)
void swigluBackward(int size, const float *gate, const float *up, const float *dy, float *dGate, float *dUp) {
  Exp e = makeExp();
  int i = 0;
  for (; i + LANES <= size; i += LANES) backwardPart(e, LANES, gate + i, up + i, dy + i, dGate + i, dUp + i);
  if (i < size) backwardPart(e, size - i, gate + i, up + i, dy + i, dGate + i, dUp + i);
}
