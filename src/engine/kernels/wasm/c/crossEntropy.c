/*
 * crossEntropy: sum over rows of log-sum-exp(x head^T) - (x head^T)[target], with the matrix product of the head
 * inside. Rows go through in chunks: a chunk's logits are made, turned into their own gradient in place
 * (softmax - one-hot), used for both gradients, and forgotten; [R,V] never exists. The chunk depends on V alone
 * and a row's loss on its row alone; losses are added in float64 in ascending order of rows.
 */
#include "gemm.h"
#include "wide.h"

/* A chunk holds at most this many logits, between MIN_ROWS and MAX_ROWS rows. */
#define CHUNK_LOGITS (8 << 20)
#define MIN_ROWS 32
#define MAX_ROWS 256
/* A row's exponentials are summed in blocks of this many, the blocks in float64. */
#define BLOCK 1024

EXPORT(cross_entropy_chunk_rows) int chunkRows(int v) {
  int rows = CHUNK_LOGITS / v / MR * MR;
  return rows < MIN_ROWS ? MIN_ROWS : minInt(rows, MAX_ROWS);
}

EXPORT(cross_entropy_scratch_floats) int crossEntropyScratchFloats(int r, int v) {
  return GEMM_SCRATCH + minInt(chunkRows(v), r) * v;
}

static float rowMax(const float *logits, int v) {
  Wide top = splatWide(NEG_INFINITY);
  for (int i = 0; i < v; i += LANES) {
    int n = minInt(v - i, LANES);
    top = maxWide(top, loadWide(logits + i, n), n);
  }
  return mostWide(top);
}

/* The sum of exp(logit - max); with `keep` the exponentials replace the logits. */
static double exponentials(float *logits, int v, float max, int keep) {
  Wide shift = splatWide(max);
  Exp e = makeExp();
  double sum = 0.0;
  for (int start = 0; start < v; start += BLOCK) {
    v128_t total = SPLAT(0.0f);
    int end = minInt(v, start + BLOCK);
    int i = start;
    for (; i + LANES <= end; i += LANES) {
      Wide w = expOf(e, subWide(loadWide(logits + i, LANES), shift));
      if (keep) storeWide(logits + i, w, LANES);
      total = addFours(total, w);
    }
    if (i < end) {
      Wide w = keepWide(expOf(e, subWide(loadWide(logits + i, end - i), shift)), end - i);
      if (keep) storeWide(logits + i, w, end - i);
      total = addFours(total, w);
    }
    sum += (double)sumLanes(total);
  }
  return sum;
}

/* The loss of one row; with `differentiate` its logits become the loss's gradient in them. */
static double rowLoss(float *logits, int v, int target, int differentiate) {
  float max = rowMax(logits, v), wanted = logits[target];
  double sum = exponentials(logits, v, max, differentiate);
  if (differentiate) {
    Wide inverse = splatWide((float)(1.0 / sum));
    for (int i = 0; i < v; i += LANES) {
      int n = minInt(v - i, LANES);
      storeWide(logits + i, mulWide(loadWide(logits + i, n), inverse), n);
    }
    logits[target] -= 1.0f;
  }
  return (double)logScalar((float)sum) + ((double)max - (double)wanted);
}

/* Returns -1, or the first row whose target is neither -1 nor in [0, v). */
EXPORT(cross_entropy_check) int crossEntropyCheck(int r, int v, const int32_t *targets) {
  for (int i = 0; i < r; i++) {
    if (targets[i] < -1 || targets[i] >= v) return i;
  }
  return -1;
}

/* The losses of m rows of logits, added; with `differentiate` each row becomes the loss's gradient in it. */
EXPORT(cross_entropy_rows)
double crossEntropyRows(int m, int v, float *logits, const int32_t *targets, int differentiate) {
  double loss = 0.0;
  for (int i = 0; i < m; i++, logits += v) {
    if (targets[i] >= 0) loss += rowLoss(logits, v, targets[i], differentiate);
    else if (differentiate) fillZero(logits, v);
  }
  return loss;
}

/* dx [R,D] and dHead [V,D] are null where no gradient is wanted. The targets have been checked. */
EXPORT(cross_entropy)
double crossEntropy(int r, int v, int d, const float *x, const float *head, const int32_t *targets, float *dx,
                    float *dHead, float *scratch) {
  float *logits = scratch + GEMM_SCRATCH;
  int rows = chunkRows(v);
  double loss = 0.0;
  for (int start = 0; start < r; start += rows) {
    int m = minInt(r - start, rows);
    gemm(m, v, d, x + start * d, d, 1, head, d, 1, logits, v, 0, scratch);
    loss += crossEntropyRows(m, v, logits, targets + start, dx != 0);
    if (!dx) continue;
    gemm(m, d, v, logits, v, 1, head, d, 0, dx + start * d, d, 0, scratch);
    gemm(v, d, m, logits, v, 0, x + start * d, d, 0, dHead, d, start > 0, scratch);
  }
  return loss;
}

/* x *= factor: the gradient of the sum becomes that of what is made of it. */
EXPORT(scale_in_place) void scaleInPlace(int size, float *x, float factor) {
  for (int i = 0; i < size; i += LANES) {
    int n = minInt(size - i, LANES);
    storeWide(x + i, mulWide(loadWide(x + i, n), splatWide(factor)), n);
  }
}
