/*
 * adamw: one decoupled-weight-decay Adam update (Loshchilov & Hutter 2019, Algorithm 2; the arrangement of
 * torch.optim.AdamW), in place, one pass over weight, gradient and both moments.
 */
#include "lanes.h"
#include "wide.h"

/* Four streams are more than the processor foresees by itself. */
#define AHEAD 256

/*
 * decay = 1 - learningRate * weightDecay; stepSize = learningRate / (1 - beta1^step);
 * rootCorrection = sqrt(1 - beta2^step); the caller computes them in float64.
 */
EXPORT(adamw_step)
void adamwStep(int size, float *w, const float *g, float *m, float *v, float gradScale, float beta1,
               float oneMinusBeta1, float beta2, float oneMinusBeta2, float decay, float stepSize,
               float rootCorrection, float eps) {
  Wide scale = splatWide(gradScale), b1 = splatWide(beta1), c1 = splatWide(oneMinusBeta1), b2 = splatWide(beta2);
  Wide c2 = splatWide(oneMinusBeta2), keep = splatWide(decay), rate = splatWide(-stepSize);
  Wide root = splatWide(rootCorrection), floor = splatWide(eps);
  for (int i = 0; i < size; i += LANES) {
    int n = minInt(size - i, LANES), next = i + AHEAD;
    prefetch(g + next), prefetch(m + next), prefetch(v + next), prefetch(w + next);
    Wide grad = mulWide(loadWide(g + i, n), scale);
    Wide first = maddWide(b1, loadWide(m + i, n), mulWide(c1, grad));
    Wide second = maddWide(b2, loadWide(v + i, n), mulWide(mulWide(c2, grad), grad));
    Wide denominator = addWide(divWide(sqrtWide(second), root), floor);
    Wide weight = mulWide(loadWide(w + i, n), keep);
    storeWide(m + i, first, n);
    storeWide(v + i, second, n);
    storeWide(w + i, maddWide(rate, divWide(first, denominator), weight), n);
  }
}
