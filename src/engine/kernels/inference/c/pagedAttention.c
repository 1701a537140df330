/*
 * causalAttention over a cache of pages of PAGE positions. A page of a sequence holds all layers; `layer` is the place
 * of this one in it, in bytes, where each key/value head has its keys turned, [H, PAGE], and behind them its values,
 * [PAGE, H]: so one query reads them in order and turns nothing. A page is a block of keys of attention.h, and the
 * steps and their order are those of attentionForward.c and attentionDecode.c, so a query has the same bytes.
 *
 * One call does some neighbouring key/value heads of one sequence: turns (rope) their new keys and the queries that
 * share them, puts keys and values in their pages, and attends. Where few queries go by themselves, what it reads of a
 * page, the keys and values of one head after the other, is one stretch of memory.
 */
#include "../../wasm/c/attention.h"
#include "../../wasm/c/direct.h"
#include "../../wasm/c/pack.h"

#define PAGE KEYS
/* Queries up to which each goes by itself; more are packed. The bytes are the same. */
#define DECODE_ROWS 4

EXPORT(page_positions) int pagePositions(void) { return PAGE; }

/* Floats of scratch for paged_attention of `t` rows and `kvs` key/value heads, `heads` query heads to each. */
EXPORT(paged_attention_scratch_floats) int pagedAttentionScratchFloats(int t, int kvs, int heads, int h) {
  int alone = KEYS + 2 * kvs * heads;
  return 2 * KEYS * h + KEYS * roundUp(h, NR) + QUERIES * KEYS + MR * KEYS + MR * NR + 2 * heads * t + alone;
}

/* Rotary embedding of one head, half-rotation layout, as rope.c does it; `y` may be `x`. */
INLINE void turn(const float *x, const float *cos, const float *sin, float *y, int h) {
  int half = h / 2;
  for (int i = 0; i < half; i += 4) {
    int part = minInt(half - i, 4);
    v128_t x1 = loadPart(x + i, part), x2 = loadPart(x + half + i, part);
    v128_t cosine = loadPart(cos + i, part), sine = loadPart(sin + i, part);
    storePart(y + i, MADD(wasm_f32x4_neg(x2), sine, MUL(x1, cosine)), part);
    storePart(y + half + i, MADD(x1, sine, MUL(x2, cosine)), part);
  }
}

/* Columns that are summed at once, in registers. */
#define WIDE (4 * NR)
#define EACH_WIDE _Pragma("clang loop unroll(full)") for (int v = 0; v < WIDE / 4; v++)

/* c[n] += sum over k of a[k] b[k][n], each chain going on from c; b is read in order, row by row. */
INLINE void addColumns(int n, int k, const float *a, const float *b, int ldb, float *c) {
  int j = 0;
  for (; j + WIDE <= n; j += WIDE) {
    v128_t sum[WIDE / 4];
    EACH_WIDE sum[v] = load(c + j + 4 * v);
    const float *p = b + j;
    for (int t = 0; t < k; t++, p += ldb) {
      v128_t x = wasm_v128_load32_splat(a + t);
      EACH_WIDE sum[v] = MADD(x, load(p + 4 * v), sum[v]);
    }
    EACH_WIDE store(c + j + 4 * v, sum[v]);
  }
  if (j < n) directColumns(1, n - j, k, a, k, b + j, ldb, c + j, n);
}

typedef struct {
  const uint32_t *pages;
  int place, bytes; /* of the first head's keys in a page, and from one head's to its values' and to the next head's */
} Past;

INLINE const float *keysOf(Past p, int block, int kv) {
  return (const float *)(p.pages[block] + p.place + 2 * kv * p.bytes);
}
INLINE const float *valuesOf(Past p, int block, int kv) {
  return (const float *)(p.pages[block] + p.place + (2 * kv + 1) * p.bytes);
}

/* One query position of `kvs` groups of `heads` heads; q and out [kvs * heads, h]. */
INLINE void attendOne(Exp e, Past past, int kvs, int heads, int h, int seen, const float *q, float *out,
                      float *scratch) {
  int all = kvs * heads;
  float *scores = scratch, *max = scores + KEYS, *sum = max + all;
  float scale = 1.0f / __builtin_sqrtf((float)h);
  for (int g = 0; g < all; g++) max[g] = NEG_INFINITY, sum[g] = 0.0f;
  fillZero(out, all * h);
  for (int j0 = 0; j0 < seen; j0 += KEYS) {
    int kb = minInt(seen - j0, KEYS);
    for (int g = 0; g < all; g++) {
      int kv = g / heads;
      for (int i = 0; i < KEYS; i += 4) store(scores + i, SPLAT(0.0f));
      addColumns(kb, h, q + g * h, keysOf(past, j0 / KEYS, kv), PAGE, scores);
      softmaxStep(e, scores, kb, scale, max + g, sum + g, out + g * h, h);
      addColumns(h, kb, scores, valuesOf(past, j0 / KEYS, kv), h, out + g * h);
    }
  }
  for (int g = 0; g < all; g++) softmaxEnd(max[g], sum[g], out + g * h, h);
}

typedef struct {
  float *keys, *values, *queries, *scores, *panel, *spare, *max, *sum;
} Room;

/* As `weigh` of attentionForward.c: what all rows of a panel see as a tile, the few keys more one row at a time. */
static void weighPage(Room x, const float *weights, int m, int first, int kb, const float *v, float *out, int ldo,
                      int h) {
  int common = minInt(first < 0 ? 0 : first, kb);
  if (common > 0) {
    packRows(x.panel, weights, KEYS, m, common, MR);
    tiles(x.panel, x.values, kb, m, h, common, out, ldo, CONTINUE, x.spare);
  }
  for (int i = 1; i < m; i++) {
    int own = minInt(first + i, kb);
    if (own <= common) continue;
    directColumns(1, h, own - common, weights + i * KEYS + common, KEYS, v + common * h, h, out + i * ldo, ldo);
  }
}

/* Queries of one head against the packed page; row i of the m sees first + i of its keys. */
static void meetPage(Room x, const float *v, int h, const float *q, int ldq, float *out, int ldo, int m, int first,
                     int kb, float *max, float *sum) {
  packBlock(x.queries, q, ldq, 1, m, h, MR);
  tiles(x.queries, x.keys, h, m, minInt(kb, first + m - 1), h, x.scores, KEYS, STORE, x.spare);
  Exp e = makeExp();
  float scale = 1.0f / __builtin_sqrtf((float)h);
  for (int i = 0; i < m; i++) {
    softmaxStep(e, x.scores + i * KEYS, minInt(first + i, kb), scale, max + i, sum + i, out + i * ldo, h);
  }
  for (int i = 0; i < m; i += MR) {
    weighPage(x, x.scores + i * KEYS, minInt(m - i, MR), first + i, kb, v, out + i * ldo, ldo, h);
  }
}

/* All queries of the group of key/value head `kv`. */
INLINE void attendMany(Past past, int kv, int t, int heads, int h, int offset, const float *q, int ldq, float *out, int ldo,
                       float *at) {
  Room x;
  x.keys = at, at += KEYS * h;
  x.queries = at, at += QUERIES * h;
  x.values = at, at += KEYS * roundUp(h, NR);
  x.scores = at, at += QUERIES * KEYS;
  x.panel = at, at += MR * KEYS;
  x.spare = at, at += MR * NR;
  x.max = at, at += heads * t;
  x.sum = at;
  for (int i = 0; i < heads * t; i++) x.max[i] = NEG_INFINITY, x.sum[i] = 0.0f;
  for (int row = 0; row < t; row++) fillZero(out + row * ldo, heads * h);
  for (int j0 = 0; j0 < offset + t; j0 += KEYS) {
    int kb = minInt(offset + t - j0, KEYS), start = j0 > offset ? j0 - offset : 0;
    const float *v = valuesOf(past, j0 / KEYS, kv);
    packBlock(x.keys, keysOf(past, j0 / KEYS, kv), PAGE, 0, kb, h, NR);
    packBlock(x.values, v, h, 0, h, kb, NR);
    for (int g = 0; g < heads; g++) {
      for (int t0 = start; t0 < t; t0 += QUERIES) {
        int m = minInt(t - t0, QUERIES), first = offset + t0 - j0 + 1;
        meetPage(x, v, h, q + t0 * ldq + g * h, ldq, out + t0 * ldo + g * h, ldo, m, first, kb, x.max + g * t + t0,
                 x.sum + g * t + t0);
      }
    }
  }
  for (int g = 0; g < heads; g++) {
    for (int row = 0; row < t; row++) {
      softmaxEnd(x.max[g * t + row], x.sum[g * t + row], out + row * ldo + g * h, h);
    }
  }
}

/*
 * `kvs` key/value heads from `kv` on of one sequence, whose t new positions follow `offset` held. q [t, ldq] and out
 * [t, ldo] from the first of the query heads that share them, `heads` each; k and v [t, ldk] from the first of those
 * heads; cos and sin [t, h / 2].
 */
EXPORT(paged_attention)
void pagedAttention(int t, int kvs, int heads, int h, int offset, int kv, int layer, const uint32_t *pages, float *q,
                    int ldq, float *k, const float *v, int ldk, const float *cos, const float *sin, float *out,
                    int ldo, float *scratch) {
  int bytes = PAGE * h * 4;
  Past past = {pages, layer + 2 * kv * bytes, bytes};
  for (int row = 0; row < t; row++) {
    int block = (offset + row) / PAGE, place = (offset + row) % PAGE;
    const float *c = cos + row * (h / 2), *s = sin + row * (h / 2);
    for (int i = 0; i < kvs; i++) {
      float *own = k + row * ldk + i * h, *key = (float *)keysOf(past, block, i) + place;
      turn(own, c, s, own, h);
      for (int j = 0; j < h; j++) key[j * PAGE] = own[j];
      __builtin_memcpy((float *)valuesOf(past, block, i) + place * h, v + row * ldk + i * h, (uint32_t)h * 4);
    }
    for (int g = 0; g < kvs * heads; g++) turn(q + row * ldq + g * h, c, s, q + row * ldq + g * h, h);
  }
  if (t > DECODE_ROWS) {
    for (int i = 0; i < kvs; i++) {
      attendMany(past, i, t, heads, h, offset, q + i * heads * h, ldq, out + i * heads * h, ldo, scratch);
    }
    return;
  }
  Exp e = makeExp();
  for (int row = 0; row < t; row++) {
    attendOne(e, past, kvs, heads, h, offset + row + 1, q + row * ldq, out + row * ldo, scratch);
  }
}
