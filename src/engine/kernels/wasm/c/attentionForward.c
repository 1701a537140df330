/*
 * causalAttention, forward, for many queries: for each block of keys, made ready once for all query heads that share
 * them, tiles of queries take a step of the running softmax. Nothing larger than QUERIES x KEYS is kept.
 */
#include "attention.h"

typedef struct {
  float *keys, *values, *queries, *scores, *panel, *spare, *max, *sum;
} Scratch;

/* Floats of scratch for the forward kernels. */
EXPORT(attention_forward_scratch_floats) int attentionForwardScratchFloats(int t, int n, int k, int h) {
  int group = n / k;
  return leftFloats(2 * KEYS, h) + KEYS * roundUp(h, NR) + QUERIES * KEYS + MR * KEYS + MR * NR + 2 * group * t + group * KEYS;
}

static Scratch divide(float *at, Shape z) {
  Scratch x;
  x.keys = at, at += KEYS * z.h;
  x.queries = at, at += leftFloats(QUERIES, z.h);
  x.values = at, at += KEYS * roundUp(z.h, NR);
  x.scores = at, at += QUERIES * KEYS;
  x.panel = at, at += MR * KEYS;
  x.spare = at, at += MR * NR;
  x.max = at, at += z.n / z.k * z.t;
  x.sum = at;
  return x;
}

/*
 * out[i] += sum over the row's own keys of weight * value, for `m` rows of one tile; row i sees first + i of the
 * block's keys. What all rows see is done as a tile, the few keys more of the later rows one row at a time: no
 * row ever multiplies a value it may not see, were it NaN.
 */
static void weigh(Scratch x, Right values, const float *weights, int m, int first, int kb, const float *v, int ldv,
                  float *out, int ldo, int h) {
  int common = minInt(first < 0 ? 0 : first, kb);
  if (common > 0) {
    Left left = leftTile(x.panel, weights, KEYS, m, common);
    product(left, values, m, h, common, out, ldo, CONTINUE, x.spare);
  }
  for (int i = 1; i < m; i++) {
    int own = minInt(first + i, kb);
    if (own <= common) continue;
    rowOnto(h, own - common, weights + i * KEYS + common, v + common * ldv, ldv, out + i * ldo);
  }
}

/* Queries t0 .. t0 + m of one head against the block of keys j0 .. j0 + kb. */
static void meet(Scratch x, Shape z, Right keys, Right values, const float *q, const float *v, float *out, int t0,
                 int m, int j0, int kb, float *max, float *sum) {
  int ldq = z.n * z.h, first = z.offset + t0 - j0 + 1;
  Left queries = leftAlong(x.queries, q, ldq, m, z.h);
  product(queries, keys, m, minInt(kb, first + m - 1), z.h, x.scores, KEYS, STORE, x.spare);
  Exp e = makeExp();
  for (int i = 0; i < m; i++) {
    int own = minInt(first + i, kb);
    softmaxStep(e, x.scores + i * KEYS, own, scaleOf(z), max + t0 + i, sum + t0 + i, out + i * ldq, z.h);
  }
  for (int i = 0; i < m; i += LEFT_ROWS) {
    int rows = minInt(m - i, LEFT_ROWS);
    weigh(x, values, x.scores + i * KEYS, rows, first + i, kb, v, z.k * z.h, out + i * ldq, ldq, z.h);
  }
}

/* All queries of the heads that share key/value head `kv` of batch item b. */
static void group(Scratch x, Shape z, int b, int kv, const float *q, const float *k, const float *v, float *out,
                  float *lse) {
  int heads = z.n / z.k, ldkv = z.k * z.h;
  for (int i = 0; i < heads * z.t; i++) x.max[i] = NEG_INFINITY, x.sum[i] = 0.0f;
  for (int j0 = 0; j0 < z.offset + z.t; j0 += KEYS) {
    int kb = minInt(z.offset + z.t - j0, KEYS), start = j0 > z.offset ? j0 - z.offset : 0;
    const float *kBlock = k + keyAt(z, b, j0, kv), *vBlock = v + keyAt(z, b, j0, kv);
    Right keys = rightAlong(x.keys, kBlock, ldkv, kb, z.h), values = rightAcross(x.values, vBlock, ldkv, z.h, kb);
    for (int g = 0; g < heads; g++) {
      for (int t0 = start; t0 < z.t; t0 += QUERIES) {
        int at = queryAt(z, b, t0, kv * heads + g), m = minInt(z.t - t0, QUERIES);
        meet(x, z, keys, values, q + at, vBlock, out + at, t0, m, j0, kb, x.max + g * z.t, x.sum + g * z.t);
      }
    }
  }
  for (int g = 0; g < heads; g++) {
    for (int t = 0; t < z.t; t++) {
      int n = kv * heads + g, row = g * z.t + t;
      lse[(b * z.n + n) * z.t + t] = softmaxEnd(x.max[row], x.sum[row], out + queryAt(z, b, t, n), z.h);
    }
  }
}

EXPORT(attention_forward)
void attentionForward(int b, int t, int s, int n, int k, int h, int offset, const float *q, const float *keys,
                      const float *values, float *out, float *lse, float *scratch) {
  Shape z = {b, t, s, n, k, h, offset};
  Scratch x = divide(scratch, z);
  fillZero(out, b * t * n * h);
  for (int i = 0; i < b; i++) {
    for (int kv = 0; kv < k; kv++) group(x, z, i, kv, q, keys, values, out, lse);
  }
}
