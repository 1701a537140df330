/*
 * y[R,O] = x[R,I] w[O,I]^T on weights that were arranged for it when they were loaded: panels of NR outputs, in each
 * the NR weights of input 0, then those of input 1, and so on. A product of any number of rows reads them in order,
 * packs none of them: a tile of some rows by a panel or two is held in registers. The rows are turned once for all
 * products with them, so that they too are read in order.
 *
 * Weights of a bfloat16 checkpoint stay in 16 bits, half the bytes that a step of decoding must read, and become
 * float32 in registers, which is exact. Two of them share 32 bits: output j of a panel has the lower half, output
 * j + NR / 2 the upper, so that a shift gives the vector of the one and a mask that of the other.
 *
 * The order of the sums is that of gemm.c: blocks of KC inputs, each one ascending chain of MADDs from zero, added up
 * in order. So a row has the bytes that `linear` gives it, whatever rows and outputs are computed with it.
 */
#include "../../wasm/c/gemm.h"

#define HALF (NR / 2)
/* Rows of a call, at most. */
#define MOST_ROWS 96

/*
 * Rows of a tile, and panels side by side in it: what the machine has registers for, with the weights and the left
 * side. More rows are groups of about one size.
 *
 * Few groups take turns after some weights, from memory for the first and from the cache for the others. WebAssembly
 * has no prefetch instruction, and what counts most for it is that weights are read in one stream: a turn is a KiB,
 * short enough for the processor to ask for the next one while the last still computes. Where the memory can be asked,
 * a turn is as long as what is asked for meanwhile stays in the nearest cache. With more groups computing takes longer
 * than the memory, and each has its sums in registers for a whole block.
 *
 * FEW rows go by four panels at once. One row of 16 bits has too few sums in one panel, each of which waits for the one
 * before; and where the memory can be asked, four streams of 32 bits that ask a little ahead are read sooner than two.
 */
#ifdef __AVX512F__
#define LINES 12
#define BESIDE 2
#define TURNS_WIDE 8
#define TURNS_HALF 2
#define TURN_BYTES 4096
#define FEW_WIDE 6
#define EACH_FEW(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#define EACH_COUNT(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12)
#else
#define LINES 6
#define BESIDE 1
#define TURNS_WIDE 3
#define TURNS_HALF 2
#define TURN_BYTES 1024
#define FEW_WIDE 0
#define EACH_FEW(DO)
#define EACH_COUNT(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#endif
#define FEW_HALF 1
/* So far ahead in each of the four. */
#define AHEAD_BYTES 2048

EXPORT(panel_width) int panelWidth(void) { return NR; }

/* Rows that panel_turn and panel_product take, at most. */
EXPORT(panel_most_rows) int panelMostRows(void) { return MOST_ROWS; }

/* Floats of scratch for panel_product: the sums of groups that take turns. */
EXPORT(panel_scratch_floats) int panelScratchFloats(void) { return TURNS_WIDE * LINES * BESIDE * NR; }

#define EACH_PANEL _Pragma("clang loop unroll(full)") for (int p = 0; p < 4; p++)
#define EACH_LINE _Pragma("clang loop unroll(full)") for (int r = 0; r < lines; r++)
#define EACH_BESIDE _Pragma("clang loop unroll(full)") for (int p = 0; p < beside; p++)

/*
 * How `rows` are cut: groups of `size` rows, the last `more` of `size` + 1, each for `depth` inputs before the next.
 * The first is the one that waits for the memory, and the smallest.
 */
typedef struct {
  int count, size, more, depth;
} Groups;

INLINE Groups groupsOf(int rows, int wide) {
  int count = (rows + LINES - 1) / LINES, size = rows / count;
  int takeTurns = count > 1 && count <= (wide ? TURNS_WIDE : TURNS_HALF);
  return (Groups){count, size, rows - count * size, takeTurns ? TURN_BYTES / (NR * (wide ? 4 : 2)) : KC};
}

INLINE int linesOf(Groups groups, int group) { return groups.size + (group >= groups.count - groups.more); }

/* The NR weights of one input; `wide`: float32, else two to a word. */
INLINE Lanes weightsAt(const int wide, const uint32_t *w) {
  if (wide) return loadLanes((const float *)w);
#ifdef __AVX512F__
  /* The words twice: the lower halves of the first eight are shifted up, the others are there already. */
  __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)w));
  __m512i up = _mm512_sllv_epi32(twice, _mm512_inserti64x4(_mm512_set1_epi32(16), _mm256_setzero_si256(), 1));
  return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xffff0000)));
#else
  Lanes to;
  _Pragma("clang loop unroll(full)") for (int v = 0; v < HALF / 4; v++) {
    v128_t pair = wasm_v128_load(w + 4 * v);
    to.v[v] = wasm_i32x4_shl(pair, 16);
    to.v[HALF / 4 + v] = wasm_v128_and(pair, wasm_i32x4_splat((int)0xffff0000));
  }
  return to;
#endif
}

/* `lines` (a constant) turned rows by four panels, `next` words apart: depth inputs to y, or onto it. */
INLINE void fourPanels(const int lines, const int wide, const float *x, const uint32_t *w, int next, int depth, float *y,
                       int ldy, int add) {
  const int words = wide ? NR : HALF, perLine = 16 / words;
  Lanes sum[LINES][4];
  EACH_LINE EACH_PANEL sum[r][p] = zeroLanes();
  for (int k = 0; k < depth; k++, w += words, x += lines) {
    if (k % perLine == 0) EACH_PANEL prefetch((const char *)(w + p * next) + AHEAD_BYTES);
    EACH_PANEL {
      Lanes right = weightsAt(wide, w + p * next);
      EACH_LINE sum[r][p] = maddLanes(x + r, right, sum[r][p]);
    }
  }
  if (add) {
    EACH_LINE EACH_PANEL sum[r][p] = addLanes(loadLanes(y + r * ldy + p * NR), sum[r][p]);
  }
  EACH_LINE EACH_PANEL storeLanes(y + r * ldy + p * NR, sum[r][p]);
}

/* What becomes of a tile's sums: they begin at zero and go to y, or onto it, or begin or go on in memory. */
enum { TO, ONTO, BEGIN, GO_ON };

/* What a tile asks the memory for while it computes: two stretches as long as its part of a panel. */
typedef struct {
  const uint32_t *first, *second;
} Ask;

/* `lines` turned rows by `beside` panels (both constants), `next` words apart; `depth` inputs. */
INLINE void tile(const int lines, const int beside, const int wide, const float *x, const uint32_t *w, int next,
                 Ask ask, int depth, float *y, int ldy, int how) {
  const int words = wide ? NR : HALF;
  Lanes sum[LINES][BESIDE];
  EACH_LINE EACH_BESIDE sum[r][p] = how == GO_ON ? loadLanes(y + r * ldy + p * NR) : zeroLanes();
  for (int k = 0; k < depth; k++, w += words, x += lines) {
    Lanes right[BESIDE];
    prefetch(ask.first + k * words), prefetch(ask.second + k * words);
    EACH_BESIDE right[p] = weightsAt(wide, w + p * next);
    EACH_LINE EACH_BESIDE sum[r][p] = maddLanes(x + r, right[p], sum[r][p]);
  }
  if (how == ONTO) {
    EACH_LINE EACH_BESIDE sum[r][p] = addLanes(loadLanes(y + r * ldy + p * NR), sum[r][p]);
  }
  EACH_LINE EACH_BESIDE storeLanes(y + r * ldy + p * NR, sum[r][p]);
}

/* A function to each, or V8 runs out of registers: together they took twice as long. */
#define TILE_OF(name, lines, beside, wide)                                                                             \
  static __attribute__((noinline)) void name##lines(const float *x, const uint32_t *w, int next, Ask ask, int depth,   \
                                                    float *y, int ldy, int how) {                                      \
    tile(lines, beside, wide, x, w, next, ask, depth, y, ldy, how);                                                    \
  }
#define TILE(lines)                                                                                                    \
  TILE_OF(wide, lines, 1, 1)                                                                                           \
  TILE_OF(half, lines, 1, 0) TILE_OF(wides, lines, BESIDE, 1) TILE_OF(halves, lines, BESIDE, 0)
EACH_COUNT(TILE)
#undef TILE

#define FEW(lines)                                                                                                     \
  static __attribute__((noinline)) void few##lines(const float *x, const uint32_t *w, int next, int depth, float *y,  \
                                                   int ldy, int add) {                                                 \
    fourPanels(lines, 1, x, w, next, depth, y, ldy, add);                                                              \
  }
EACH_FEW(FEW)
#undef FEW

/* Of wide weights FEW_WIDE rows at most, of others one. */
INLINE void fourPanelsOf(int lines, int wide, const float *x, const uint32_t *w, int next, int depth, float *y, int ldy,
                         int add) {
  if (!wide) {
    fourPanels(1, 0, x, w, next, depth, y, ldy, add);
    return;
  }
#define FEW(lines)                                                                                                     \
  case lines:                                                                                                          \
    few##lines(x, w, next, depth, y, ldy, add);                                                                        \
    return;
  switch (lines) { EACH_FEW(FEW) }
#undef FEW
}

INLINE void tileOf(int lines, int beside, int wide, const float *x, const uint32_t *w, int next, Ask ask, int depth,
                   float *y, int ldy, int how) {
#define TILE(lines)                                                                                                    \
  case lines:                                                                                                          \
    if (beside == 1 && wide) wide##lines(x, w, next, ask, depth, y, ldy, how);                                         \
    else if (beside == 1) half##lines(x, w, next, ask, depth, y, ldy, how);                                            \
    else if (wide) wides##lines(x, w, next, ask, depth, y, ldy, how);                                                  \
    else halves##lines(x, w, next, ask, depth, y, ldy, how);                                                           \
    return;
  switch (lines) { EACH_COUNT(TILE) }
#undef TILE
}

/*
 * A group that is alone asks for the next block of all its panels, of several the first two for one panel each: so the
 * memory is at work as long as they compute. `panel` words from one to the other; `here` is in the cache already.
 */
INLINE Ask askIn(int group, int groups, int beside, const uint32_t *here, const uint32_t *next, int panel) {
  const uint32_t *other = next + (beside > 1 ? panel : 0);
  if (groups == 1) return (Ask){next, other};
  return group == 0 ? (Ask){next, here} : group == 1 ? (Ask){other, here} : (Ask){here, here};
}

/*
 * Groups take turns within `depth` inputs of panels side by side; what they have so far is in `sums`. `after`: the
 * weights that come next.
 */
INLINE void takeTurns(int rows, Groups groups, int beside, int wide, const float *x, const uint32_t *w, int panel,
                      const uint32_t *after, int depth, float *y, int ldy, float *sums, int add) {
  const int words = wide ? NR : HALF, width = beside * NR;
  for (int k = 0; k < depth; k += groups.depth, w += groups.depth * words) {
    int some = minInt(depth - k, groups.depth), how = k > 0 ? GO_ON : BEGIN;
    const uint32_t *next = k + some < depth ? w + some * words : after;
    float *at = sums;
    for (int group = 0; group < groups.count; group++) {
      int lines = linesOf(groups, group);
      Ask ask = askIn(group, groups.count, beside, w, next, panel);
      tileOf(lines, beside, wide, x, w, panel, ask, some, at, width, how);
      x += lines * some;
      at += lines * width;
    }
  }
  for (int row = 0; row < rows; row++) {
    for (int j = 0; j < width; j += NR) {
      float *to = y + row * ldy + j, *from = sums + row * width + j;
      storeLanes(to, add ? addLanes(loadLanes(to), loadLanes(from)) : loadLanes(from));
    }
  }
}

/* to[j * ldto + r] = x[r * ldx + j] for up to four rows r. */
INLINE void turnFour(int rows, int count, const float *x, int ldx, float *to, int ldto) {
  const float *x1 = x + (rows > 1 ? ldx : 0), *x2 = x + (rows > 2 ? 2 * ldx : 0), *x3 = x + (rows > 3 ? 3 * ldx : 0);
  int j = 0;
  for (; j + 4 <= count; j += 4, to += 4 * ldto) {
    v128_t a = load(x + j), b = load(x1 + j), c = load(x2 + j), d = load(x3 + j);
    transpose4(&a, &b, &c, &d);
    storePart(to, a, rows), storePart(to + ldto, b, rows);
    storePart(to + 2 * ldto, c, rows), storePart(to + 3 * ldto, d, rows);
  }
  for (; j < count; j++, to += ldto) {
    for (int r = 0; r < rows; r++) to[r] = x[r * ldx + j];
  }
}

/*
 * Rows as panel_product wants them: for each turn of a group its rows' inputs side by side. x [rows, ldx] to
 * [rows * i]; wide: for weights in float32. One row is as it must be already.
 */
EXPORT(panel_turn) void panelTurn(int rows, int i, int wide, const float *x, int ldx, float *to) {
  Groups groups = groupsOf(rows, wide);
  for (int k = 0; k < i; k += groups.depth) {
    int some = minInt(i - k, groups.depth);
    const float *row = x + k;
    for (int group = 0; group < groups.count; group++) {
      int lines = linesOf(groups, group);
      for (int r = 0; r < lines; r += 4) turnFour(minInt(lines - r, 4), some, row + r * ldx, ldx, to + r, lines);
      row += lines * ldx;
      to += some * lines;
    }
  }
}

/*
 * `panels` panels of w, each NR outputs by i inputs. x: `rows` rows, turned; y [rows, ldy], of which panels * NR
 * outputs from y on are written. wide: the weights are float32.
 */
EXPORT(panel_product)
void panelProduct(int rows, int panels, int i, int wide, const float *x, const uint32_t *w, float *y, int ldy,
                  float *sums) {
  int words = wide ? NR : HALF, panel = i * words, p = 0;
  if (rows <= (wide ? FEW_WIDE : FEW_HALF)) {
    for (; p + 4 <= panels; p += 4, w += 4 * panel, y += 4 * NR) {
      for (int k = 0; k < i; k += KC) {
        fourPanelsOf(rows, wide, x + k * rows, w + k * words, panel, minInt(i - k, KC), y, ldy, k > 0);
      }
    }
  }
  Groups groups = groupsOf(rows, wide);
  while (p < panels) {
    int beside = BESIDE == 1 ? 1 : minInt(BESIDE, panels - p);
    const float *left = x;
    for (int k = 0; k < i; k += KC) {
      int depth = minInt(i - k, KC);
      const uint32_t *right = w + k * words, *after = k + KC < i ? right + KC * words : w + beside * panel;
      if (groups.depth < KC) {
        takeTurns(rows, groups, beside, wide, left, right, panel, after, depth, y, ldy, sums, k > 0);
        left += rows * depth;
        continue;
      }
      float *at = y;
      for (int group = 0; group < groups.count; group++) {
        int lines = linesOf(groups, group);
        Ask ask = askIn(group, groups.count, beside, right, after, panel);
        tileOf(lines, beside, wide, left, right, panel, ask, depth, at, ldy, k > 0 ? ONTO : TO);
        left += lines * depth;
        at += lines * ldy;
      }
    }
    p += beside, w += beside * panel, y += beside * NR;
  }
}

/* The weights of the panels in float32, input by input: to[i, panels * NR]. For a BLAS. */
EXPORT(panel_unpack) void panelUnpack(int panels, int i, int wide, const uint32_t *w, float *to) {
  for (int p = 0; p < panels; p++) {
    for (int k = 0; k < i; k++, w += wide ? NR : HALF) {
      storeLanes(to + (k * panels + p) * NR, wide ? weightsAt(1, w) : weightsAt(0, w));
    }
  }
}

/* Up to NR rows of a float32 matrix [rows, i] to one panel; rows that are not there are zeros. */
EXPORT(panel_pack) void panelPack(int rows, int i, const float *from, float *to) {
  for (int k = 0; k < i; k++, to += NR) {
    for (int j = 0; j < NR; j++) to[j] = j < rows ? from[j * i + k] : 0.0f;
  }
}

/* The same of bfloat16. */
EXPORT(panel_pack_bf16) void panelPackBf16(int rows, int i, const uint16_t *from, uint32_t *to) {
  for (int k = 0; k < i; k++, to += HALF) {
    for (int j = 0; j < HALF; j++) {
      uint32_t lower = j < rows ? from[j * i + k] : 0, upper = j + HALF < rows ? from[(j + HALF) * i + k] : 0;
      to[j] = lower | upper << 16;
    }
  }
}

/* Row `row` of the matrix that the panels hold: to[i]. */
EXPORT(panel_row) void panelRow(int row, int i, int wide, const uint32_t *w, float *to) {
  int words = wide ? NR : HALF, lane = row % NR;
  w += row / NR * words * i + (wide ? lane : lane % HALF);
  for (int k = 0; k < i; k++, w += words) {
    uint32_t bits = wide ? *w : lane < HALF ? *w << 16 : *w & 0xffff0000;
    to[k] = __builtin_bit_cast(float, bits);
  }
}
