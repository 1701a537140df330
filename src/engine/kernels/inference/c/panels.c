/*
 * y[R,O] = x[R,I] w[O,I]^T on weights that were arranged for it when they were loaded: panels of NR outputs, in each
 * the NR weights of input 0, then those of input 1, and so on. A product of any number of rows reads them in order,
 * packs none of them: a tile of some rows by one panel is held in registers. The rows are turned once for all
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
 * Rows of a tile: what the machine has registers for, with the weights and the left side. More rows are groups of about
 * one size.
 *
 * WebAssembly has no prefetch instruction, and what counts most for it is that weights are read in one stream. So few
 * groups take turns after a KiB of weights, from memory for the first and from the cache for the others: that is short
 * enough for the processor to ask for the next KiB while the last still computes. Where there are more groups, computing
 * takes longer than the memory, and each has its sums in registers for a whole block, as all have where the memory can
 * be asked AHEAD_BYTES before.
 */
#ifdef __AVX512F__
#define LINES 16
#define TURNS_WIDE 0
#define TURNS_HALF 0
#define EACH_COUNT(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15) DO(16)
#else
#define LINES 6
#define TURNS_WIDE 3
#define TURNS_HALF 2
#define EACH_COUNT(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#endif
#define TURN_BYTES 1024
#define AHEAD_BYTES 4096

EXPORT(panel_width) int panelWidth(void) { return NR; }

/* Rows that panel_turn and panel_product take, at most. */
EXPORT(panel_most_rows) int panelMostRows(void) { return MOST_ROWS; }

/* Floats of scratch for panel_product: the sums of groups that take turns. */
EXPORT(panel_scratch_floats) int panelScratchFloats(void) { return (TURNS_WIDE * LINES + 1) * NR; }

#define EACH_PANEL _Pragma("clang loop unroll(full)") for (int p = 0; p < 4; p++)
#define EACH_LINE _Pragma("clang loop unroll(full)") for (int r = 0; r < lines; r++)

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

/*
 * One row by four panels of 16 bits, `next` words apart: depth inputs to y, or onto it. A panel alone has few sums,
 * each of which waits for the one before: fast enough for 32 bits from memory, which one stream gives sooner than four,
 * too slow for half the bytes.
 */
INLINE void rowTile(const float *x, const uint32_t *w, int next, int depth, float *y, int add) {
  Lanes sum[4];
  EACH_PANEL sum[p] = zeroLanes();
  for (int k = 0; k < depth; k++, w += HALF) {
    EACH_PANEL prefetch((const char *)(w + p * next) + AHEAD_BYTES);
    EACH_PANEL sum[p] = maddLanes(x + k, weightsAt(0, w + p * next), sum[p]);
  }
  if (add) {
    EACH_PANEL sum[p] = addLanes(loadLanes(y + p * NR), sum[p]);
  }
  EACH_PANEL storeLanes(y + p * NR, sum[p]);
}

/* What becomes of a tile's sums: they begin at zero and go to y, or onto it, or begin or go on in memory. */
enum { TO, ONTO, BEGIN, GO_ON };

/* `lines` (a constant) turned rows by one panel, `depth` inputs. */
INLINE void tile(const int lines, const int wide, const float *x, const uint32_t *w, int depth, float *y, int ldy,
                 int how) {
  Lanes sum[LINES];
  EACH_LINE sum[r] = how == GO_ON ? loadLanes(y + r * ldy) : zeroLanes();
  for (int k = 0; k < depth; k++, w += wide ? NR : HALF, x += lines) {
    prefetch((const char *)w + AHEAD_BYTES);
    Lanes right = weightsAt(wide, w);
    EACH_LINE sum[r] = maddLanes(x + r, right, sum[r]);
  }
  if (how == ONTO) {
    EACH_LINE sum[r] = addLanes(loadLanes(y + r * ldy), sum[r]);
  }
  EACH_LINE storeLanes(y + r * ldy, sum[r]);
}

/* A function to each, or V8 runs out of registers: together they took twice as long. */
#define TILE(lines)                                                                                                    \
  static __attribute__((noinline)) void wide##lines(const float *x, const uint32_t *w, int depth, float *y, int ldy,   \
                                                    int how) {                                                         \
    tile(lines, 1, x, w, depth, y, ldy, how);                                                                          \
  }                                                                                                                    \
  static __attribute__((noinline)) void half##lines(const float *x, const uint32_t *w, int depth, float *y, int ldy,   \
                                                    int how) {                                                         \
    tile(lines, 0, x, w, depth, y, ldy, how);                                                                          \
  }
EACH_COUNT(TILE)
#undef TILE

INLINE void tileOf(int lines, int wide, const float *x, const uint32_t *w, int depth, float *y, int ldy, int how) {
#define TILE(lines)                                                                                                    \
  case lines:                                                                                                          \
    if (wide) wide##lines(x, w, depth, y, ldy, how);                                                                   \
    else half##lines(x, w, depth, y, ldy, how);                                                                        \
    return;
  switch (lines) { EACH_COUNT(TILE) }
#undef TILE
}

/* Groups take turns within `depth` inputs of one panel; what they have so far is in `sums`. */
INLINE void takeTurns(int rows, Groups groups, int wide, const float *x, const uint32_t *w, int depth, float *y,
                      int ldy, float *sums, int add) {
  for (int k = 0; k < depth; k += groups.depth) {
    int some = minInt(depth - k, groups.depth), how = k > 0 ? GO_ON : BEGIN;
    float *at = sums;
    for (int group = 0; group < groups.count; group++) {
      int lines = linesOf(groups, group);
      tileOf(lines, wide, x, w, some, at, NR, how);
      x += lines * some;
      at += lines * NR;
    }
    w += some * (wide ? NR : HALF);
  }
  for (int row = 0; row < rows; row++) {
    float *to = y + row * ldy, *from = sums + row * NR;
    storeLanes(to, add ? addLanes(loadLanes(to), loadLanes(from)) : loadLanes(from));
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
      for (int r = 0; r < lines; r++, row += ldx) {
        for (int j = 0; j < some; j++) to[j * lines + r] = row[j];
      }
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
  int p = 0;
  if (rows == 1 && !wide) {
    for (; p + 4 <= panels; p += 4, w += 4 * HALF * i, y += 4 * NR) {
      for (int k = 0; k < i; k += KC) rowTile(x + k, w + k * HALF, i * HALF, minInt(i - k, KC), y, k > 0);
    }
  }
  Groups groups = groupsOf(rows, wide);
  for (; p < panels; p++, y += NR) {
    const float *left = x;
    for (int k = 0; k < i; k += KC) {
      int depth = minInt(i - k, KC);
      if (groups.depth < KC) {
        takeTurns(rows, groups, wide, left, w, depth, y, ldy, sums, k > 0);
        left += rows * depth;
      } else {
        float *at = y;
        for (int group = 0; group < groups.count; group++) {
          int lines = linesOf(groups, group);
          tileOf(lines, wide, left, w, depth, at, ldy, k > 0 ? ONTO : TO);
          left += lines * depth;
          at += lines * ldy;
        }
      }
      w += depth * (wide ? NR : HALF);
    }
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
