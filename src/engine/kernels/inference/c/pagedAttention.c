/*
 * causalAttention over a cache of pages of PAGE positions. A page of a sequence holds all layers; `layer` is the place
 * of this one in it, in bytes. There it has the keys of all heads, and behind them the values of all heads, both in
 * blocks of NR positions: keys [PAGE / NR, K, H, NR], which are panels as tiles want them, and values
 * [PAGE / NR, K, NR, H]. So what is held of a page, however little, is two stretches of memory that are read in order,
 * and nothing is turned. A page is a block of keys of attention.h, and the steps and their order are those of
 * attentionForward.c and attentionDecode.c, so a query has the same bytes.
 *
 * One call does some neighbouring key/value heads of one sequence: turns (rope) their new keys and the queries that
 * share them, puts keys and values in their pages, and attends.
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
  int alone = (KEYS + 2) * kvs * heads;
  return KEYS * h + KEYS * roundUp(h, NR) + QUERIES * KEYS + MR * KEYS + MR * NR + 2 * heads * t + alone;
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

/*
 * The pages of a sequence, in bytes from the memory's beginning: where the first head of a call has its keys and values
 * in one, and floats between blocks.
 */
typedef struct {
  char *memory;
  const uint32_t *pages;
  int keys, values, next;
} Past;

/* Keys or values of head `i` of a call, of a block of NR positions. */
INLINE float *keysOf(Past p, int page, int i, int h) {
  return (float *)(p.memory + p.pages[page] + p.keys) + i * h * NR;
}
INLINE float *valuesOf(Past p, int page, int i, int h) {
  return (float *)(p.memory + p.pages[page] + p.values) + i * h * NR;
}

/* Query heads that meet a block of keys at once. */
#define TOGETHER 4
#define EACH_QUERY _Pragma("clang loop unroll(full)") for (int g = 0; g < queries; g++)

/* Scores of `queries` (a constant) heads, q [queries, h], with the NR keys of a block: scores [queries, KEYS]. */
INLINE void scoreBlock(const int queries, int h, const float *q, const float *keys, float *scores) {
  Lanes sum[TOGETHER];
  EACH_QUERY sum[g] = zeroLanes();
  for (int i = 0; i < h; i++, keys += NR) {
    Lanes key = loadLanes(keys);
    EACH_QUERY sum[g] = maddLanes(q + g * h + i, key, sum[g]);
  }
  EACH_QUERY storeLanes(scores + g * KEYS, sum[g]);
}

/* Sums that go on at once, in registers. */
#define WIDE 4
#define EACH_WIDE _Pragma("clang loop unroll(full)") for (int v = 0; v < WIDE; v++)

/* out[h] += sum over positions of weights[position] values[position], values [positions, h], read in order. */
INLINE void addValues(int positions, int h, const float *weights, const float *values, float *out) {
  int j = 0;
  for (; j + WIDE * NR <= h; j += WIDE * NR) {
    Lanes sum[WIDE];
    EACH_WIDE sum[v] = loadLanes(out + j + NR * v);
    const float *p = values + j;
    for (int t = 0; t < positions; t++, p += h) {
      EACH_WIDE sum[v] = maddLanes(weights + t, loadLanes(p + NR * v), sum[v]);
    }
    EACH_WIDE storeLanes(out + j + NR * v, sum[v]);
  }
  if (j < h) directColumns(1, h - j, positions, weights, positions, values + j, h, out + j, h);
}

/* The scores of `heads` queries, q [heads, h], with a block of keys: scores [heads, KEYS]. */
INLINE void scoreHeads(int heads, int h, const float *q, const float *keys, float *scores) {
  int g = 0;
  for (; g + TOGETHER <= heads; g += TOGETHER) scoreBlock(TOGETHER, h, q + g * h, keys, scores + g * KEYS);
  for (; g < heads; g++) scoreBlock(1, h, q + g * h, keys, scores + g * KEYS);
}

/* One query position of `kvs` groups of `heads` heads; q and out [kvs * heads, h]. */
INLINE void attendOne(Exp e, Past past, int kvs, int heads, int h, int seen, const float *q, float *out,
                      float *scratch) {
  int all = kvs * heads;
  float *scores = scratch, *max = scores + all * KEYS, *sum = max + all;
  float scale = 1.0f / __builtin_sqrtf((float)h);
  for (int g = 0; g < all; g++) max[g] = NEG_INFINITY, sum[g] = 0.0f;
  fillZero(out, all * h);
  for (int page = 0; page * PAGE < seen; page++) {
    int kb = minInt(seen - page * PAGE, PAGE);
    for (int j = 0; j < kb; j += NR) {
      for (int i = 0; i < kvs; i++) {
        const float *keys = keysOf(past, page, i, h) + j / NR * past.next;
        scoreHeads(heads, h, q + i * heads * h, keys, scores + i * heads * KEYS + j);
      }
    }
    for (int g = 0; g < all; g++) softmaxStep(e, scores + g * KEYS, kb, scale, max + g, sum + g, out + g * h, h);
    for (int j = 0; j < kb; j += NR) {
      for (int g = 0; g < all; g++) {
        const float *values = valuesOf(past, page, g / heads, h) + j / NR * past.next;
        addValues(minInt(kb - j, NR), h, scores + g * KEYS + j, values, out + g * h);
      }
    }
  }
  for (int g = 0; g < all; g++) softmaxEnd(max[g], sum[g], out + g * h, h);
}

typedef struct {
  float *values, *queries, *scores, *panel, *spare, *max, *sum;
} Room;

/* As `weigh` of attentionForward.c: what all rows of a panel see as a tile, the few keys more one row at a time. */
static void weighPage(Room x, const float *weights, int m, int first, int kb, const float *v, int next, float *out,
                      int ldo, int h) {
  int common = minInt(first < 0 ? 0 : first, kb);
  if (common > 0) {
    packRows(x.panel, weights, KEYS, m, common, MR);
    tiles(x.panel, x.values, kb, m, h, common, out, ldo, CONTINUE, x.spare);
  }
  for (int i = 1; i < m; i++) {
    int own = minInt(first + i, kb);
    for (int k = common; k < own; k++) {
      addValues(1, h, weights + i * KEYS + k, v + k / NR * next + k % NR * h, out + i * ldo);
    }
  }
}

/* Queries of one head against a page; row i of the m sees first + i of its keys. */
static void meetPage(Room x, const float *keys, const float *v, int next, int h, const float *q, int ldq, float *out,
                     int ldo, int m, int first, int kb, float *max, float *sum) {
  packBlock(x.queries, q, ldq, 1, m, h, MR);
  tiles(x.queries, keys, next / NR, m, minInt(kb, first + m - 1), h, x.scores, KEYS, STORE, x.spare);
  Exp e = makeExp();
  float scale = 1.0f / __builtin_sqrtf((float)h);
  for (int i = 0; i < m; i++) {
    softmaxStep(e, x.scores + i * KEYS, minInt(first + i, kb), scale, max + i, sum + i, out + i * ldo, h);
  }
  for (int i = 0; i < m; i += MR) {
    weighPage(x, x.scores + i * KEYS, minInt(m - i, MR), first + i, kb, v, next, out + i * ldo, ldo, h);
  }
}

/* The values of `kb` positions as tiles want them: panels [h / NR, kb, NR]. */
INLINE void packValues(float *panels, const float *v, int next, int kb, int h) {
  for (int j = 0; j < h; j += NR, panels += kb * NR) {
    for (int k = 0; k < kb; k += NR) {
      packColumns(panels + k * NR, v + k / NR * next + j, h, h - j, minInt(kb - k, NR), NR);
    }
  }
}

/* All queries of the group of head `i` of the call. */
INLINE void attendMany(Past past, int i, int t, int heads, int h, int offset, const float *q, int ldq, float *out,
                       int ldo, float *at) {
  Room x;
  x.queries = at, at += QUERIES * h;
  x.values = at, at += KEYS * roundUp(h, NR);
  x.scores = at, at += QUERIES * KEYS;
  x.panel = at, at += MR * KEYS;
  x.spare = at, at += MR * NR;
  x.max = at, at += heads * t;
  x.sum = at;
  for (int row = 0; row < heads * t; row++) x.max[row] = NEG_INFINITY, x.sum[row] = 0.0f;
  for (int row = 0; row < t; row++) fillZero(out + row * ldo, heads * h);
  for (int j0 = 0; j0 < offset + t; j0 += KEYS) {
    int kb = minInt(offset + t - j0, KEYS), start = j0 > offset ? j0 - offset : 0;
    const float *keys = keysOf(past, j0 / KEYS, i, h), *v = valuesOf(past, j0 / KEYS, i, h);
    packValues(x.values, v, past.next, kb, h);
    for (int g = 0; g < heads; g++) {
      for (int t0 = start; t0 < t; t0 += QUERIES) {
        int m = minInt(t - t0, QUERIES), first = offset + t0 - j0 + 1;
        meetPage(x, keys, v, past.next, h, q + t0 * ldq + g * h, ldq, out + t0 * ldo + g * h, ldo, m, first, kb,
                 x.max + g * t + t0, x.sum + g * t + t0);
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
 * `kvs` key/value heads from `kv` on, of `allKvs`, of one sequence whose t new positions follow `offset` held.
 * q [t, ldq] and out [t, ldo] from the first of the query heads that share them, `heads` each; k and v [t, ldk] from
 * the first of those heads; cos and sin [t, h / 2]. `memory`: what the addresses of the pages count from.
 */
EXPORT(paged_attention)
void pagedAttention(int t, int kvs, int heads, int h, int offset, int kv, int allKvs, int layer, char *memory,
                    const uint32_t *pages, float *q, int ldq, float *k, const float *v, int ldk, const float *cos,
                    const float *sin, float *out, int ldo, float *scratch) {
  int first = layer + kv * h * NR * 4;
  Past past = {memory, pages, first, first + PAGE * allKvs * h * 4, allKvs * h * NR};
  for (int row = 0; row < t; row++) {
    int page = (offset + row) / PAGE, block = (offset + row) % PAGE / NR * past.next, lane = (offset + row) % NR;
    const float *c = cos + row * (h / 2), *s = sin + row * (h / 2);
    for (int i = 0; i < kvs; i++) {
      float *own = k + row * ldk + i * h, *key = keysOf(past, page, i, h) + block + lane;
      turn(own, c, s, own, h);
      for (int j = 0; j < h; j++) key[j * NR] = own[j];
      float *value = valuesOf(past, page, i, h) + block + lane * h;
      __builtin_memcpy(value, v + row * ldk + i * h, (uint32_t)h * 4);
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
