/*
 * adamw: one decoupled-weight-decay Adam update (Loshchilov & Hutter 2019, Algorithm 2; the arrangement of
 * torch.optim.AdamW), in place, one pass over weight, gradient and both moments.
 */
#include "simd.h"

/*
 * decay = 1 - learningRate * weightDecay; stepSize = learningRate / (1 - beta1^step);
 * rootCorrection = sqrt(1 - beta2^step); the caller computes them in float64.
 */
EXPORT(adamw_step)
void adamwStep(int size, float *w, const float *g, float *m, float *v, float gradScale, float beta1,
               float oneMinusBeta1, float beta2, float oneMinusBeta2, float decay, float stepSize,
               float rootCorrection, float eps) {
  v128_t scale = SPLAT(gradScale), b1 = SPLAT(beta1), c1 = SPLAT(oneMinusBeta1), b2 = SPLAT(beta2);
  v128_t c2 = SPLAT(oneMinusBeta2), keep = SPLAT(decay), rate = SPLAT(-stepSize), root = SPLAT(rootCorrection);
  v128_t floor = SPLAT(eps);
  for (int i = 0; i < size; i += 4) {
    int n = minInt(size - i, 4);
    v128_t grad = MUL(loadPart(g + i, n), scale);
    v128_t first = MADD(b1, loadPart(m + i, n), MUL(c1, grad));
    v128_t second = MADD(b2, loadPart(v + i, n), MUL(MUL(c2, grad), grad));
    v128_t denominator = ADD(DIV(wasm_f32x4_sqrt(second), root), floor);
    v128_t weight = MUL(loadPart(w + i, n), keep);
    storePart(m + i, first, n);
    storePart(v + i, second, n);
    storePart(w + i, MADD(rate, DIV(first, denominator), weight), n);
  }
}
