/*
 * y[R,O] = x[R,I] w[O,I]^T on weights that were arranged for it when they were loaded: panels of NR outputs, in each
 * the NR weights of input 0, then those of input 1, and so on. A product of any number of rows reads them in order,
 * packs nothing and turns nothing: a tile of some rows by one or more panels is held in registers.
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
/* Rows that share a block of weights in the cache. */
#define ROWS 128
/* Up to so many rows take turns after so few inputs: the memory can then deliver while they are computed. */
#define PIECE_ROWS 8
#define PIECE 64

EXPORT(panel_width) int panelWidth(void) { return NR; }

/* Floats of scratch for panel_product: the sums of a panel. */
EXPORT(panel_scratch_floats) int panelScratchFloats(void) { return ROWS * NR; }

#define EACH_HALF _Pragma("clang loop unroll(full)") for (int v = 0; v < HALF / 4; v++)
#define EACH_PANEL _Pragma("clang loop unroll(full)") for (int p = 0; p < panels; p++)
#define EACH_LINE _Pragma("clang loop unroll(full)") for (int r = 0; r < rows; r++)

/* The NR weights of one input; `wide`: float32, else two to a word. */
INLINE void weightsAt(const int wide, const uint32_t *w, v128_t *out) {
  if (wide) {
    EACH_VECTOR out[v] = wasm_v128_load(w + 4 * v);
    return;
  }
  v128_t pair[HALF / 4];
  EACH_HALF pair[v] = wasm_v128_load(w + 4 * v);
  EACH_HALF out[v] = wasm_i32x4_shl(pair[v], 16);
  EACH_HALF out[HALF / 4 + v] = wasm_v128_and(pair[v], wasm_i32x4_splat((int)0xffff0000));
}

/* `rows` by `panels` (constants; at most 8 vectors of NR / 2) over `depth` inputs; panels are `next` words apart. */
INLINE void panelTile(const int rows, const int panels, const int wide, const float *x, int ldx, const uint32_t *w,
                      int next, int depth, float *y, int ldy, int add) {
  const int words = wide ? NR : HALF;
  v128_t sum[4][4][NR / 4];
  EACH_LINE EACH_PANEL EACH_VECTOR sum[r][p][v] = SPLAT(0.0f);
  for (int k = 0; k < depth; k++, w += words) {
    v128_t weights[4][NR / 4];
    EACH_PANEL weightsAt(wide, w + p * next, weights[p]);
    EACH_LINE {
      v128_t left = wasm_v128_load32_splat(x + r * ldx + k);
      EACH_PANEL EACH_VECTOR sum[r][p][v] = MADD(left, weights[p][v], sum[r][p][v]);
    }
  }
  if (add) {
    EACH_LINE EACH_PANEL EACH_VECTOR {
      float *at = y + r * ldy + p * NR + 4 * v;
      sum[r][p][v] = ADD(load(at), sum[r][p][v]);
    }
  }
  EACH_LINE EACH_PANEL EACH_VECTOR store(y + r * ldy + p * NR + 4 * v, sum[r][p][v]);
}

/* One row: more panels at once, since a sum waits for the one before it. */
INLINE void oneRow(const int wide, int panels, int i, const float *x, const uint32_t *w, float *y) {
  const int words = wide ? NR : HALF;
  int next = i * words, p = 0;
  for (; p + 4 <= panels; p += 4, w += 4 * next, y += 4 * NR) {
    for (int k = 0; k < i; k += KC) {
      panelTile(1, 4, wide, x + k, 0, w + k * words, next, minInt(i - k, KC), y, 0, k > 0);
    }
  }
  for (; p < panels; p++, w += next, y += NR) {
    for (int k = 0; k < i; k += KC) panelTile(1, 1, wide, x + k, 0, w + k * words, 0, minInt(i - k, KC), y, 0, k > 0);
  }
}

INLINE void twoRows(const int wide, int panels, int i, const float *x, int ldx, const uint32_t *w, float *y, int ldy) {
  const int words = wide ? NR : HALF;
  int next = i * words, p = 0;
  for (; p + 2 <= panels; p += 2, w += 2 * next, y += 2 * NR) {
    for (int k = 0; k < i; k += KC) {
      panelTile(2, 2, wide, x + k, ldx, w + k * words, next, minInt(i - k, KC), y, ldy, k > 0);
    }
  }
  for (; p < panels; p++, w += next, y += NR) {
    for (int k = 0; k < i; k += KC) {
      panelTile(2, 1, wide, x + k, ldx, w + k * words, 0, minInt(i - k, KC), y, ldy, k > 0);
    }
  }
}

/* `rows` (a constant) by one panel, `depth` inputs more: the chains go on from `sums`, or begin. */
INLINE void sumTile(const int rows, const int wide, const float *x, int ldx, const uint32_t *w, int depth, float *sums,
                    int begin) {
  v128_t sum[6][NR / 4];
  EACH_LINE EACH_VECTOR sum[r][v] = begin ? SPLAT(0.0f) : load(sums + r * NR + 4 * v);
  for (int k = 0; k < depth; k++, w += wide ? NR : HALF) {
    v128_t right[NR / 4];
    weightsAt(wide, w, right);
    EACH_LINE {
      v128_t left = wasm_v128_load32_splat(x + r * ldx + k);
      EACH_VECTOR sum[r][v] = MADD(left, right[v], sum[r][v]);
    }
  }
  EACH_LINE EACH_VECTOR store(sums + r * NR + 4 * v, sum[r][v]);
}

/* Any rows by `depth` inputs of one panel. Six at a time: with the weights and the left side, AVX2's registers. */
INLINE void sumRows(int rows, const int wide, const float *x, int ldx, const uint32_t *w, int depth, float *sums,
                    int begin) {
  int r = 0;
  for (; r + 6 <= rows; r += 6, x += 6 * ldx, sums += 6 * NR) sumTile(6, wide, x, ldx, w, depth, sums, begin);
  for (; r + 4 <= rows; r += 4, x += 4 * ldx, sums += 4 * NR) sumTile(4, wide, x, ldx, w, depth, sums, begin);
  int rest = rows - r;
  if (rest == 3) sumTile(3, wide, x, ldx, w, depth, sums, begin);
  else if (rest == 2) sumTile(2, wide, x, ldx, w, depth, sums, begin);
  else if (rest == 1) sumTile(1, wide, x, ldx, w, depth, sums, begin);
}

/*
 * `panels` panels of w, each NR outputs by i inputs. x [rows, ldx], y [rows, ldy], of which panels * NR outputs from
 * y on are written. wide: the weights are float32.
 */
EXPORT(panel_product)
void panelProduct(int rows, int panels, int i, int wide, const float *x, int ldx, const uint32_t *w, float *y, int ldy,
                  float *sums) {
  if (rows == 1) {
    if (wide) oneRow(1, panels, i, x, w, y);
    else oneRow(0, panels, i, x, w, y);
    return;
  }
  if (rows == 2) {
    if (wide) twoRows(1, panels, i, x, ldx, w, y, ldy);
    else twoRows(0, panels, i, x, ldx, w, y, ldy);
    return;
  }
  int words = wide ? NR : HALF, next = i * words;
  if (rows <= 4) {
    for (int p = 0; p < panels; p++, w += next, y += NR) {
      for (int k = 0; k < i; k += KC) {
        const float *left = x + k;
        const uint32_t *block = w + k * words;
        int depth = minInt(i - k, KC), add = k > 0;
        if (rows == 3 && wide) panelTile(3, 1, 1, left, ldx, block, 0, depth, y, ldy, add);
        else if (rows == 3) panelTile(3, 1, 0, left, ldx, block, 0, depth, y, ldy, add);
        else if (wide) panelTile(4, 1, 1, left, ldx, block, 0, depth, y, ldy, add);
        else panelTile(4, 1, 0, left, ldx, block, 0, depth, y, ldy, add);
      }
    }
    return;
  }
  int piece = rows > PIECE_ROWS ? KC : PIECE;
  for (int r = 0; r < rows; r += ROWS) {
    int some = minInt(rows - r, ROWS);
    const uint32_t *block = w;
    for (int p = 0; p < panels; p++) {
      float *at = y + r * ldy + p * NR;
      for (int k = 0; k < i; k += KC) {
        for (int start = k, end = minInt(i, k + KC); start < end; start += piece) {
          int depth = minInt(end - start, piece);
          if (wide) sumRows(some, 1, x + r * ldx + start, ldx, block, depth, sums, start == k);
          else sumRows(some, 0, x + r * ldx + start, ldx, block, depth, sums, start == k);
          block += depth * words;
        }
        for (int row = 0; row < some; row++) {
          float *to = at + row * ldy, *from = sums + row * NR;
          if (k > 0) {
            EACH_VECTOR store(to + 4 * v, ADD(load(to + 4 * v), load(from + 4 * v)));
          } else {
            EACH_VECTOR store(to + 4 * v, load(from + 4 * v));
          }
        }
      }
    }
  }
}

/* The weights of the panels in float32, input by input: to[i, panels * NR]. For a BLAS. */
EXPORT(panel_unpack) void panelUnpack(int panels, int i, int wide, const uint32_t *w, float *to) {
  for (int p = 0; p < panels; p++) {
    for (int k = 0; k < i; k++, w += wide ? NR : HALF) {
      float *at = to + (k * panels + p) * NR;
      v128_t weights[NR / 4];
      if (wide) weightsAt(1, w, weights);
      else weightsAt(0, w, weights);
      EACH_VECTOR store(at + 4 * v, weights[v]);
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
