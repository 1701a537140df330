/*
 * causalAttention, backward: the weights are computed again, block by block, from the saved log-sum-exp
 * (FlashAttention, Algorithm 4). With P the weights, D = rowsum(dO * O):
 *   dV = P^T dO    dS = P * (dO V^T - D) / sqrt(H)    dQ = dS K    dK = dS^T Q
 * Blocks of keys ascend; within one, query heads and then tiles of queries ascend: all sums in a fixed order.
 */
#include "attention.h"
#include "pack.h"

typedef struct {
  float *keys, *values, *keysAcross;                   /* the block of keys, packed */
  float *queries, *grads, *queriesAcross, *gradsAcross; /* the tile of queries, packed */
  float *weights, *scores, *left, *spare, *delta;
} Scratch;

EXPORT(attention_backward_scratch_floats) int attentionBackwardScratchFloats(int t, int n, int k, int h) {
  return 4 * KEYS * h + 3 * KEYS * roundUp(h, NR) + 3 * QUERIES * KEYS + MR * NR + n / k * t;
}

static Scratch divide(float *at, Shape z) {
  int rows = KEYS * z.h, columns = KEYS * roundUp(z.h, NR);
  Scratch x;
  x.keys = at, at += rows;
  x.values = at, at += rows;
  x.queries = at, at += rows;
  x.grads = at, at += rows;
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
  v128_t factor = SPLAT(scale), shift = SPLAT(lse), mean = SPLAT(delta);
  for (int j = 0; j < width; j += 4) {
    v128_t seen = laneMask(own - j);
    v128_t p = wasm_v128_and(expF32(e, SUB(MUL(load(weights + j), factor), shift)), seen);
    v128_t ds = MUL(MUL(p, SUB(load(scores + j), mean)), factor);
    store(weights + j, p);
    store(scores + j, wasm_v128_and(ds, seen));
  }
}

typedef struct {
  const float *q, *dOut, *lse, *delta;
  float *dq, *dk, *dv;
} Tile;

/* Queries t0 .. t0 + m of one head against the packed block of keys j0 .. j0 + kb. */
static void meet(Scratch x, Shape z, Tile p, int t0, int m, int j0, int kb) {
  int ldq = z.n * z.h, ldkv = z.k * z.h, first = z.offset + t0 - j0 + 1;
  int width = minInt(kb, first + m - 1);
  packBlock(x.queries, p.q, ldq, 1, m, z.h, MR);
  packBlock(x.grads, p.dOut, ldq, 1, m, z.h, MR);
  packBlock(x.queriesAcross, p.q, ldq, 0, z.h, m, NR);
  packBlock(x.gradsAcross, p.dOut, ldq, 0, z.h, m, NR);
  tiles(x.queries, x.keys, z.h, m, width, z.h, x.weights, KEYS, STORE, x.spare);
  tiles(x.grads, x.values, z.h, m, width, z.h, x.scores, KEYS, STORE, x.spare);
  Exp e = makeExp();
  for (int i = 0; i < m; i++) {
    int own = minInt(first + i, kb);
    differentiateRow(e, x.weights + i * KEYS, x.scores + i * KEYS, own, width, scaleOf(z), p.lse[i], p.delta[i]);
  }
  packBlock(x.left, x.weights, KEYS, 0, width, m, MR);
  tiles(x.left, x.gradsAcross, m, width, z.h, m, p.dv, ldkv, ADD_TO, x.spare);
  packBlock(x.left, x.scores, KEYS, 0, width, m, MR);
  tiles(x.left, x.queriesAcross, m, width, z.h, m, p.dk, ldkv, ADD_TO, x.spare);
  packBlock(x.left, x.scores, KEYS, 1, m, width, MR);
  tiles(x.left, x.keysAcross, kb, m, z.h, width, p.dq, ldq, ADD_TO, x.spare);
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
      int kb = minInt(t - j0, KEYS), block = keyAt(z, i, j0, kv);
      packBlock(x.keys, keys + block, ldkv, 1, kb, h, NR);
      packBlock(x.values, values + block, ldkv, 1, kb, h, NR);
      packBlock(x.keysAcross, keys + block, ldkv, 0, h, kb, NR);
      for (int g = 0; g < heads; g++) {
        for (int t0 = j0; t0 < t; t0 += QUERIES) {
          int head = kv * heads + g, at = queryAt(z, i, t0, head);
          Tile p = {q + at,  dOut + at,  lse + (i * n + head) * t + t0, x.delta + g * t + t0,
                    dq + at, dk + block, dv + block};
          meet(x, z, p, t0, minInt(t - t0, QUERIES), j0, kb);
        }
      }
    }
  }
}
