/*
 * causalAttention over a cache of pages of PAGE positions. A page of a sequence holds all layers; `layer` is the place
 * of this one in it, in bytes. There it has the keys of all heads, and behind them the values of all heads, both in
 * blocks of NR positions: keys [PAGE / NR, K, H, NR], which are panels as tiles want them, and values
 * [PAGE / NR, K, NR, H]. So what is held of a page, however little, is two stretches of memory that are read in order,
 * and nothing is turned. A page is a block of keys of attention.h, and the steps and their order are those of
 * attentionForward.c and attentionDecode.c, so a query has the same bytes.
 *
 * `wide` pages hold float32. Others hold bfloat16, half the bytes that a step of many sequences reads: keys (after their
 * rotation) and values are rounded once, when they are put there, also for the queries that come with them; all that
 * is computed from them is float32.
 *
 * One call does some neighbouring key/value heads of one sequence: turns (rope) their new keys and the queries that
 * share them, puts keys and values in their pages, and attends.
 */
#include "../../wasm/c/attention.h"
#include "../../wasm/c/bf16.h"
#include "../../wasm/c/direct.h"
#include "../../wasm/c/pack.h"

#define PAGE KEYS
/* Queries up to which each goes by itself; more are packed. The bytes are the same. */
#define DECODE_ROWS 4

EXPORT(page_positions) int pagePositions(void) { return PAGE; }

/* Floats of scratch for paged_attention of `t` rows and `kvs` key/value heads, `heads` query heads to each. */
EXPORT(paged_attention_scratch_floats) int pagedAttentionScratchFloats(int t, int kvs, int heads, int h) {
  int alone = (KEYS + 2) * kvs * heads;
  int widened = 2 * KEYS * h;
  return widened + KEYS * h + KEYS * roundUp(h, NR) + QUERIES * KEYS + MR * KEYS + MR * NR + 2 * heads * t + alone;
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
 * The pages of a sequence, all in bytes: where from the memory's beginning the first head of a call has its keys and
 * values in one, how far from block to block and from head to head, and what an element takes.
 */
typedef struct {
  char *memory;
  const uint32_t *pages;
  int keys, values, next, head, element;
} Past;

/* Keys or values of head `i` of a call, from a block of NR positions of a page on. */
INLINE char *keysOf(Past p, int page, int block, int i) {
  return p.memory + p.pages[page] + p.keys + block * p.next + i * p.head;
}
INLINE char *valuesOf(Past p, int page, int block, int i) {
  return p.memory + p.pages[page] + p.values + block * p.next + i * p.head;
}

/* Element `at` of what lies at p. */
INLINE const char *elementAt(const int wide, const char *p, int at) { return p + at * (wide ? 4 : 2); }

INLINE Lanes lanesAt(const int wide, const char *p, int at) {
  const char *from = elementAt(wide, p, at);
  return wide ? loadLanes((const float *)from) : loadHalves((const uint16_t *)from);
}

/* The first n (1..4) elements, zeros after them. */
INLINE v128_t partAt(const int wide, const char *p, int at, int n) {
  const char *from = elementAt(wide, p, at);
  if (wide) return loadPart((const float *)from, n);
  const uint16_t *half = (const uint16_t *)from;
  if (n >= 4) return wasm_i32x4_shl(wasm_u32x4_load16x4(half), 16);
  v128_t bits = wasm_i32x4_splat(0);
  bits = wasm_i32x4_replace_lane(bits, 0, half[0] << 16);
  if (n > 1) bits = wasm_i32x4_replace_lane(bits, 1, half[1] << 16);
  if (n > 2) bits = wasm_i32x4_replace_lane(bits, 2, half[2] << 16);
  return bits;
}

/* Scores that are summed at once, and how far ahead keys and values are asked for, where the memory can be asked. */
#define TOGETHER 4
#define AHEAD_BYTES 8192
#define EACH_HEAD _Pragma("clang loop unroll(full)") for (int n = 0; n < kvs; n++)
#define EACH_QUERY _Pragma("clang loop unroll(full)") for (int g = 0; g < queries; g++)

/* Asks for what lies ahead of the NR elements at `at`, the `nth` such; a line has two of them in 16 bits. */
INLINE void askAhead(const int wide, int nth, const char *p, int at) {
  if (wide || nth % 2 == 0) prefetch(elementAt(wide, p, at) + AHEAD_BYTES);
}

/*
 * Scores of a block of NR keys of `kvs` heads, `head` bytes apart, each with `queries` (both constants) of the `heads`
 * queries that share it. q [kvs * heads, h] and scores [kvs * heads, KEYS], from the first of those queries on.
 */
INLINE void scoreBlock(const int kvs, const int queries, const int wide, int heads, int h, const float *q,
                       const char *keys, int head, float *scores) {
  Lanes sum[TOGETHER];
  EACH_HEAD EACH_QUERY sum[n * queries + g] = zeroLanes();
  for (int i = 0; i < h; i++) {
    EACH_HEAD {
      askAhead(wide, i, keys + n * head, i * NR);
      Lanes key = lanesAt(wide, keys + n * head, i * NR);
      EACH_QUERY sum[n * queries + g] = maddLanes(q + (n * heads + g) * h + i, key, sum[n * queries + g]);
    }
  }
  EACH_HEAD EACH_QUERY storeLanes(scores + (n * heads + g) * KEYS, sum[n * queries + g]);
}

#ifdef __AVX512F__
#define BESIDE 4
#else
/* Keys of several heads at once are as many streams, which are read slower where the memory cannot be asked. */
#define BESIDE 1
#endif

/* The scores of a block of keys of `kvs` heads with the `heads` queries of each: scores [kvs * heads, KEYS]. */
INLINE void scoreHeads(const int wide, int kvs, int heads, int h, const float *q, const char *keys, int head,
                       float *scores) {
#define SCORE(ofHeads, queries, i, g)                                                                                  \
  scoreBlock(ofHeads, queries, wide, heads, h, q + ((i)*heads + g) * h, keys + (i)*head, head,                         \
             scores + ((i)*heads + g) * KEYS)
  int i = 0;
  if (BESIDE == 4 && heads == 1) {
    for (; i + 4 <= kvs; i += 4) SCORE(4, 1, i, 0);
  }
  if (BESIDE == 4 && heads == 2) {
    for (; i + 2 <= kvs; i += 2) SCORE(2, 2, i, 0);
  }
  for (; i < kvs; i++) {
    int g = 0;
    for (; g + TOGETHER <= heads; g += TOGETHER) SCORE(1, TOGETHER, i, g);
    for (; g < heads; g++) SCORE(1, 1, i, g);
  }
#undef SCORE
}

/* Sums that go on at once, in registers. */
#define WIDE 4
#define EACH_WIDE _Pragma("clang loop unroll(full)") for (int v = 0; v < count; v++)

/* `count` (a constant) vectors of out, from column j on. */
INLINE void addColumns(const int count, const int wide, int positions, int h, const float *weights, const char *values,
                       float *out, int j) {
  Lanes sum[WIDE];
  EACH_WIDE sum[v] = loadLanes(out + j + NR * v);
  for (int t = 0; t < positions; t++) {
    EACH_WIDE {
      askAhead(wide, v, values, t * h + j + NR * v);
      sum[v] = maddLanes(weights + t, lanesAt(wide, values, t * h + j + NR * v), sum[v]);
    }
  }
  EACH_WIDE storeLanes(out + j + NR * v, sum[v]);
}

/* out[h] += sum over positions of weights[position] values[position], values [positions, h], read in order. */
INLINE void addValues(const int wide, int positions, int h, const float *weights, const char *values, float *out) {
  int j = 0;
  for (; j + WIDE * NR <= h; j += WIDE * NR) addColumns(WIDE, wide, positions, h, weights, values, out, j);
  for (; j + NR <= h; j += NR) addColumns(1, wide, positions, h, weights, values, out, j);
  for (; j < h; j += 4) {
    int part = minInt(h - j, 4);
    v128_t sum = loadPart(out + j, part);
    for (int t = 0; t < positions; t++) {
      sum = MADD(wasm_v128_load32_splat(weights + t), partAt(wide, values, t * h + j, part), sum);
    }
    storePart(out + j, sum, part);
  }
}

/* One query position of `kvs` groups of `heads` heads; q and out [kvs * heads, h]. */
INLINE void attendOne(Exp e, const int wide, Past past, int kvs, int heads, int h, int seen, const float *q, float *out,
                      float *scratch) {
  int all = kvs * heads;
  float *scores = scratch, *max = scores + all * KEYS, *sum = max + all;
  float scale = 1.0f / __builtin_sqrtf((float)h);
  for (int g = 0; g < all; g++) max[g] = NEG_INFINITY, sum[g] = 0.0f;
  fillZero(out, all * h);
  for (int page = 0; page * PAGE < seen; page++) {
    int kb = minInt(seen - page * PAGE, PAGE);
    for (int j = 0; j < kb; j += NR) {
      scoreHeads(wide, kvs, heads, h, q, keysOf(past, page, j / NR, 0), past.head, scores + j);
    }
    for (int g = 0; g < all; g++) softmaxStep(e, scores + g * KEYS, kb, scale, max + g, sum + g, out + g * h, h);
    for (int j = 0; j < kb; j += NR) {
      for (int g = 0; g < all; g++) {
        const char *values = valuesOf(past, page, j / NR, g / heads);
        addValues(wide, minInt(kb - j, NR), h, scores + g * KEYS + j, values, out + g * h);
      }
    }
  }
  for (int g = 0; g < all; g++) softmaxEnd(max[g], sum[g], out + g * h, h);
}

typedef struct {
  float *wideKeys, *wideValues, *values, *queries, *scores, *panel, *spare, *max, *sum;
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
    int seen = minInt(first + i, kb);
    for (int k = common; k < seen; k++) {
      const float *own = v + k / NR * next + k % NR * h;
      addValues(1, 1, h, weights + i * KEYS + k, (const char *)own, out + i * ldo);
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

/* The numbers of `blocks` blocks of one head as floats, one block after the other. */
INLINE void widen(float *to, const char *halves, int next, int blocks, int h) {
  for (int block = 0; block < blocks; block++, halves += next, to += h * NR) {
    for (int i = 0; i < h; i++) storeLanes(to + i * NR, lanesAt(0, halves, i * NR));
  }
}

/* All queries of the group of head `i` of the call. */
INLINE void attendMany(Past past, int i, int t, int heads, int h, int offset, const float *q, int ldq, float *out,
                       int ldo, float *at) {
  Room x;
  x.wideKeys = at, at += KEYS * h;
  x.wideValues = at, at += KEYS * h;
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
    const char *heldKeys = keysOf(past, j0 / KEYS, 0, i), *heldValues = valuesOf(past, j0 / KEYS, 0, i);
    const float *keys = (const float *)heldKeys, *v = (const float *)heldValues;
    int next = past.next / 4;
    if (past.element != 4) {
      int blocks = (kb + NR - 1) / NR;
      widen(x.wideKeys, heldKeys, past.next, blocks, h), widen(x.wideValues, heldValues, past.next, blocks, h);
      keys = x.wideKeys, v = x.wideValues, next = h * NR;
    }
    packValues(x.values, v, next, kb, h);
    for (int g = 0; g < heads; g++) {
      for (int t0 = start; t0 < t; t0 += QUERIES) {
        int m = minInt(t - t0, QUERIES), first = offset + t0 - j0 + 1;
        meetPage(x, keys, v, next, h, q + t0 * ldq + g * h, ldq, out + t0 * ldo + g * h, ldo, m, first, kb,
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

/* A key, turned, and a value of h numbers, at position `lane` of their blocks. */
INLINE void keep(const int wide, int h, int lane, const float *key, const float *value, char *keys, char *values) {
  if (wide) {
    float *to = (float *)keys + lane;
    for (int j = 0; j < h; j++) to[j * NR] = key[j];
    __builtin_memcpy((float *)values + lane * h, value, (uint32_t)h * 4);
    return;
  }
  uint16_t *to = (uint16_t *)keys + lane;
  for (int j = 0; j < h; j++) {
    to[j * NR] = (uint16_t)wasm_i32x4_extract_lane(rounded(wasm_v128_load32_zero(key + j)), 0);
  }
  roundHalves(h, value, (uint16_t *)values + lane * h);
}

/*
 * `kvs` key/value heads from `kv` on, of `allKvs`, of one sequence whose t new positions follow `offset` held.
 * q [t, ldq] and out [t, ldo] from the first of the query heads that share them, `heads` each; k and v [t, ldk] from
 * the first of those heads; cos and sin [t, h / 2]. `memory`: what the addresses of the pages count from.
 */
EXPORT(paged_attention)
void pagedAttention(int t, int kvs, int heads, int h, int offset, int kv, int allKvs, int layer, int wide, char *memory,
                    const uint32_t *pages, float *q, int ldq, float *k, const float *v, int ldk, const float *cos,
                    const float *sin, float *out, int ldo, float *scratch) {
  int element = wide ? 4 : 2, head = h * NR * element, first = layer + kv * head;
  Past past = {memory, pages, first, first + PAGE * allKvs * h * element, allKvs * head, head, element};
  for (int row = 0; row < t; row++) {
    int page = (offset + row) / PAGE, block = (offset + row) % PAGE / NR, lane = (offset + row) % NR;
    const float *c = cos + row * (h / 2), *s = sin + row * (h / 2);
    for (int i = 0; i < kvs; i++) {
      float *own = k + row * ldk + i * h;
      const float *value = v + row * ldk + i * h;
      char *keys = keysOf(past, page, block, i), *values = valuesOf(past, page, block, i);
      turn(own, c, s, own, h);
      if (wide) keep(1, h, lane, own, value, keys, values);
      else keep(0, h, lane, own, value, keys, values);
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
    int seen = offset + row + 1;
    if (wide) attendOne(e, 1, past, kvs, heads, h, seen, q + row * ldq, out + row * ldo, scratch);
    else attendOne(e, 0, past, kvs, heads, h, seen, q + row * ldq, out + row * ldo, scratch);
  }
}
