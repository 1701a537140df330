/*
 * What a step does between its products: training's kernels, and on rows that need not lie one after the other swiglu
 * and the addition of what a layer gives to the stream, of which no gradient is kept. `ldx` and the like are floats
 * from one row to the next.
 */
#include "../../wasm/c/rmsNorm.c"
#include "../../wasm/c/swiglu.c"

/* gate becomes silu(gate) * up. */
EXPORT(swiglu_rows) void swigluRows(int rows, int size, float *gate, const float *up, int ld) {
  for (int row = 0; row < rows; row++) swigluForward(size, gate + row * ld, up + row * ld, gate + row * ld);
}

/* x += y; ldy 0: the same y for every row. */
EXPORT(add_rows) void addRows(int rows, int size, float *x, int ldx, const float *y, int ldy) {
  for (int row = 0; row < rows; row++, x += ldx, y += ldy) {
    for (int i = 0; i < size; i += 4) {
      int n = minInt(size - i, 4);
      storePart(x + i, ADD(loadPart(x + i, n), loadPart(y + i, n)), n);
    }
  }
}
