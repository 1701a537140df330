/*
 * swiglu (Shazeer 2020): silu(gate) * up, elementwise, where silu(x) = x sigmoid(x) and
 * silu'(x) = sigmoid(x) (1 + x (1 - sigmoid(x))).
 */
#include "mathf.h"

INLINE void forwardPart(Exp e, int n, const float *gate, const float *up, float *y) {
  v128_t g = loadPart(gate, n);
  storePart(y, MUL(MUL(g, sigmoidF32(e, g)), loadPart(up, n)), n);
}

EXPORT(swiglu_forward) void swigluForward(int size, const float *gate, const float *up, float *y) {
  Exp e = makeExp();
  int i = 0;
#ifdef __AVX512F__
  __m512 one = _mm512_set1_ps(1.0f);
  for (; i + 16 <= size; i += 16) {
    __m512 g = _mm512_loadu_ps(gate + i);
    __m512 minus = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(g), _mm512_set1_epi32((int)0x80000000)));
    __m512 sigmoid = _mm512_div_ps(one, _mm512_add_ps(one, expWide(minus)));
    _mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid), _mm512_loadu_ps(up + i)));
  }
#endif
  for (; i + 4 <= size; i += 4) forwardPart(e, 4, gate + i, up + i, y + i);
  if (i < size) forwardPart(e, size - i, gate + i, up + i, y + i);
}

INLINE void backwardPart(
    Exp e, int n, const float *gate, const float *up, const float *dy, float *dGate, float *dUp) {
  v128_t g = loadPart(gate, n), grad = loadPart(dy, n), s = sigmoidF32(e, g);
  v128_t slope = MUL(s, MADD(g, SUB(e.one, s), e.one));
  storePart(dGate, MUL(MUL(grad, loadPart(up, n)), slope), n);
  storePart(dUp, MUL(grad, MUL(g, s)), n);
}

EXPORT(swiglu_backward)
void swigluBackward(int size, const float *gate, const float *up, const float *dy, float *dGate, float *dUp) {
  Exp e = makeExp();
  int i = 0;
  for (; i + 4 <= size; i += 4) backwardPart(e, 4, gate + i, up + i, dy + i, dGate + i, dUp + i);
  if (i < size) backwardPart(e, size - i, gate + i, up + i, dy + i, dGate + i, dUp + i);
}
