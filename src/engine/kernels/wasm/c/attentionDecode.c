/*
 * causalAttention, forward, for a few queries after a cache of keys: keys and values are read once, where they
 * lie, for all query heads that share them. The same steps in the same order as attentionForward.c, so the bytes
 * are the same.
 */
#include "attention.h"
#include "direct.h"

EXPORT(attention_decode)
void attentionDecode(int b, int t, int s, int n, int k, int h, int offset, const float *q, const float *keys,
                     const float *values, float *out, float *lse, float *scratch) {
  Shape z = {b, t, s, n, k, h, offset};
  int heads = n / k, ldkv = k * h;
  float *scores = scratch, *max = scores + heads * KEYS, *sum = max + heads;
  Exp e = makeExp();
  fillZero(out, b * t * n * h);
  for (int item = 0; item < b * t * k; item++) {
    int kv = item % k, row = item / k, i = row / t, time = row % t, seen = offset + time + 1;
    const float *query = q + queryAt(z, i, time, kv * heads);
    float *result = out + queryAt(z, i, time, kv * heads);
    for (int g = 0; g < heads; g++) max[g] = NEG_INFINITY, sum[g] = 0.0f;
    for (int j0 = 0; j0 < seen; j0 += KEYS) {
      int kb = minInt(seen - j0, KEYS), at = keyAt(z, i, j0, kv);
      directRows(heads, kb, h, query, h, keys + at, ldkv, scores, KEYS, 0);
      for (int g = 0; g < heads; g++) {
        softmaxStep(e, scores + g * KEYS, kb, scaleOf(z), max + g, sum + g, result + g * h, h);
      }
      directColumns(heads, h, kb, scores, KEYS, values + at, ldkv, result, h);
    }
    for (int g = 0; g < heads; g++) {
      lse[(i * n + kv * heads + g) * t + time] = softmaxEnd(max[g], sum[g], result + g * h, h);
    }
  }
}
