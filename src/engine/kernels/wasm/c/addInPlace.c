/*
 * x += y, each number by itself: gradients of other threads onto those of this one.
 */
#include "wide.h"

EXPORT(add_in_place) void addInPlace(int size, float *x, const float *y) {
  for (int i = 0; i < size; i += LANES) {
    int n = minInt(size - i, LANES);
    storeWide(x + i, addWide(loadWide(x + i, n), loadWide(y + i, n)), n);
  }
}
