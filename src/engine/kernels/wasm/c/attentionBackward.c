/*
 * causalAttention, backward: the weights are computed again, block by block, from the saved log-sum-exp
 * (FlashAttention, Algorithm 4). With P the weights, D = rowsum(dO * O):
 *   dV = P^T dO    dS = P * (dO V^T - D) / sqrt(H)    dQ = dS K    dK = dS^T Q
 * Blocks of keys ascend; within one, query heads and then tiles of queries ascend: all sums in a fixed order.
 */
#include "attention.h"

typedef struct {
  float *keys, *values, *keysAcross;                   /* room for operands: the block of keys */
  float *queries, *grads, *queriesAcross, *gradsAcross; /* the tile of queries */
  float *weights, *scores, *left, *spare, *delta;
} Scratch;

/* The block of keys, made ready. */
typedef struct {
  Right keys, values, keysAcross;
} Block;

EXPORT(attention_backward_scratch_floats) int attentionBackwardScratchFloats(int t, int n, int k, int h) {
  return 2 * KEYS * h + 2 * leftFloats(KEYS, h) + 3 * KEYS * roundUp(h, NR) + 3 * QUERIES * KEYS + MR * NR + n / k * t;
}

static Scratch divide(float *at, Shape z) {
  int rows = KEYS * z.h, columns = KEYS * roundUp(z.h, NR);
  Scratch x;
  x.keys = at, at += rows;
  x.values = at, at += rows;
  x.queries = at, at += leftFloats(KEYS, z.h);
  x.grads = at, at += leftFloats(KEYS, z.h);
  x.keysAcross = at, at += columns;
  x.queriesAcross = at, at += columns;
  x.gradsAcross = at, at += columns;
  x.weights = at, at += QUERIES * KEYS;
  x.scores = at, at += QUERIES * KEYS;
  x.left = at, at += QUERIES * KEYS;
  x.spare = at, at += MR * NR;
  x.delta = at;
  return x;
}

static float dot(const float *a, const float *b, int n) {
  v128_t sum = SPLAT(0.0f);
  for (int i = 0; i < n; i += 4) sum = MADD(loadPart(a + i, minInt(n - i, 4)), loadPart(b + i, minInt(n - i, 4)), sum);
  return sumLanes(sum);
}

/* weights: raw scores in, P out. scores: dO V^T in, dS out. Both zero beyond the row's own keys. */
INLINE void differentiateRow(
    Exp e, float *weights, float *scores, int own, int width, float scale, float lse, float delta) {
  Wide factor = splatWide(scale), shift = splatWide(lse), mean = splatWide(delta);
  for (int j = 0; j < width; j += LANES) {
    Wide raw = loadWide(weights + j, LANES), grad = loadWide(scores + j, LANES);
    Wide p = keepWide(expOf(e, subWide(mulWide(raw, factor), shift)), own - j);
    Wide ds = mulWide(mulWide(p, subWide(grad, mean)), factor);
    storeWide(weights + j, p, LANES);
    storeWide(scores + j, keepWide(ds, own - j), LANES);
  }
}

typedef struct {
  const float *q, *dOut, *lse, *delta;
  float *dq, *dk, *dv;
} Tile;

/* Queries t0 .. t0 + m of one head against the block of keys j0 .. j0 + kb. */
static void meet(Scratch x, Shape z, Block block, Tile p, int t0, int m, int j0, int kb) {
  int ldq = z.n * z.h, ldkv = z.k * z.h, first = z.offset + t0 - j0 + 1;
  int width = minInt(kb, first + m - 1);
  Left queries = leftAlong(x.queries, p.q, ldq, m, z.h);
  Left grads = leftAlong(x.grads, p.dOut, ldq, m, z.h);
  Right queriesAcross = rightAcross(x.queriesAcross, p.q, ldq, z.h, m);
  Right gradsAcross = rightAcross(x.gradsAcross, p.dOut, ldq, z.h, m);
  product(queries, block.keys, m, width, z.h, x.weights, KEYS, STORE, x.spare);
  product(grads, block.values, m, width, z.h, x.scores, KEYS, STORE, x.spare);
  Exp e = makeExp();
  for (int i = 0; i < m; i++) {
    int own = minInt(first + i, kb);
    differentiateRow(e, x.weights + i * KEYS, x.scores + i * KEYS, own, width, scaleOf(z), p.lse[i], p.delta[i]);
  }
  Left turned = leftAcross(x.left, x.weights, KEYS, width, m);
  product(turned, gradsAcross, width, z.h, m, p.dv, ldkv, ADD_TO, x.spare);
  turned = leftAcross(x.left, x.scores, KEYS, width, m);
  product(turned, queriesAcross, width, z.h, m, p.dk, ldkv, ADD_TO, x.spare);
  Left scores = leftAlongScores(x.left, x.scores, KEYS, m, width);
  product(scores, block.keysAcross, m, z.h, width, p.dq, ldq, ADD_TO, x.spare);
}

EXPORT(attention_backward)
void attentionBackward(int b, int t, int n, int k, int h, const float *q, const float *keys, const float *values,
                       const float *out, const float *lse, const float *dOut, float *dq, float *dk, float *dv,
                       float *scratch) {
  Shape z = {b, t, t, n, k, h, 0};
  Scratch x = divide(scratch, z);
  int heads = n / k, ldkv = k * h;
  fillZero(dq, b * t * n * h), fillZero(dk, b * t * k * h), fillZero(dv, b * t * k * h);
  for (int item = 0; item < b * k; item++) {
    int i = item / k, kv = item % k;
    for (int row = 0; row < heads * t; row++) {
      int at = queryAt(z, i, row % t, kv * heads + row / t);
      x.delta[row] = dot(out + at, dOut + at, h);
    }
    for (int j0 = 0; j0 < t; j0 += KEYS) {
      int kb = minInt(t - j0, KEYS), first = keyAt(z, i, j0, kv);
      Block block;
      block.keys = rightAlong(x.keys, keys + first, ldkv, kb, h);
      block.values = rightAlong(x.values, values + first, ldkv, kb, h);
      block.keysAcross = rightAcross(x.keysAcross, keys + first, ldkv, h, kb);
      for (int g = 0; g < heads; g++) {
        for (int t0 = j0; t0 < t; t0 += QUERIES) {
          int head = kv * heads + g, at = queryAt(z, i, t0, head);
          Tile p = {q + at,  dOut + at,  lse + (i * n + head) * t + t0, x.delta + g * t + t0,
                    dq + at, dk + first, dv + first};
          meet(x, z, block, p, t0, minInt(t - t0, QUERIES), j0, kb);
        }
      }
    }
  }
}
