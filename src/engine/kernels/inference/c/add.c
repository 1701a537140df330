/*
 * Addition in place: what a layer adds to the stream of a step that keeps no gradient.
 */
#include "../../wasm/c/simd.h"

EXPORT(add_in_place) void addInPlace(int size, float *x, const float *y) {
  for (int i = 0; i < size; i += 4) {
    int n = minInt(size - i, 4);
    storePart(x + i, ADD(loadPart(x + i, n), loadPart(y + i, n)), n);
  }
}
