/*
 * embedding: rows of a table, and the table's gradient, to which rows are added in ascending order.
 */
#include "wide.h"

/* Returns -1, or the first position whose id is not in [0, v); nothing is read for such an id. */
EXPORT(embedding_gather) int embeddingGather(int r, int v, int d, const int32_t *ids, const float *table, float *y) {
  for (int i = 0; i < r; i++) {
    if (ids[i] < 0 || ids[i] >= v) return i;
    __builtin_memcpy(y + i * d, table + ids[i] * d, (uint32_t)d * sizeof(float));
  }
  return -1;
}

/* The ids have been through embedding_gather. */
EXPORT(embedding_scatter)
void embeddingScatter(int r, int v, int d, const int32_t *ids, const float *dy, float *dTable) {
  fillZero(dTable, v * d);
  for (int i = 0; i < r; i++, dy += d) {
    float *row = dTable + ids[i] * d;
    for (int j = 0; j < d; j += LANES) {
      int n = minInt(d - j, LANES);
      storeWide(row + j, addWide(loadWide(row + j, n), loadWide(dy + j, n)), n);
    }
  }
}
