/*
 * What the three attention kernels share: the shapes, the blocks, and one row's step of the running softmax.
 * Keys are taken in blocks of KEYS whose bounds are multiples of KEYS in absolute position, in ascending order,
 * whatever the queries: so a query's result has the same bytes in training, in prefill and when decoded alone.
 * Online softmax: Milakov & Gimelshein 2018; blocks: FlashAttention (Dao et al. 2022), with the keys outermost.
 */
#pragma once
#include "blocks.h"
#include "wide.h"

#define KEYS 64 /* at least QUERIES */
#define QUERIES 32

/* q, o and their gradients are [B,T,N,H]; k, v and theirs [B,S,K,H]; lse is [B,N,T]. */
typedef struct {
  int b, t, s, n, k, h, offset;
} Shape;

INLINE int queryAt(Shape z, int b, int t, int n) { return ((b * z.t + t) * z.n + n) * z.h; }
INLINE int keyAt(Shape z, int b, int s, int k) { return ((b * z.s + s) * z.k + k) * z.h; }
INLINE float scaleOf(Shape z) { return 1.0f / __builtin_sqrtf((float)z.h); }

/*
 * One row meets `count` more keys: their raw scores in p become weights relative to the running maximum, and what
 * was summed before (sum, and the h outputs) is brought to the new maximum. A maximum of -infinity (no key with
 * any weight yet) is not subtracted, or it would make NaN of nothing.
 */
INLINE void softmaxStep(Exp e, float *p, int count, float scale, float *max, float *sum, float *out, int h) {
#ifdef __AVX512F__
  Wide s[KEYS / LANES], top = splatWide(NEG_INFINITY);
  for (int v = 0, j = 0; v < KEYS / LANES && j < count; v++, j += LANES) {
    s[v] = mulWide(loadWide(p + j, count - j), splatWide(scale));
    top = maxWide(top, s[v], count - j);
  }
  float before = *max, now = mostWide(maxWide(top, splatWide(before), LANES));
  float shift = now == NEG_INFINITY ? 0.0f : now, decay = expScalar(e, before - shift);
  v128_t total = SPLAT(0.0f);
  for (int v = 0, j = 0; v < KEYS / LANES && j < count; v++, j += LANES) {
    Wide w = keepWide(expOf(e, subWide(s[v], splatWide(shift))), count - j);
    storeWide(p + j, w, count - j);
    total = addFours(total, w);
  }
#else
  v128_t factor = SPLAT(scale), none = SPLAT(NEG_INFINITY), top = none;
  int whole = count & ~3, rest = count & 3;
  for (int j = 0; j < whole; j += 4) {
    v128_t s = MUL(load(p + j), factor);
    store(p + j, s);
    top = MAX(top, s);
  }
  if (rest) {
    v128_t s = MUL(loadPart(p + whole, rest), factor);
    storePart(p + whole, s, rest);
    top = MAX(top, wasm_v128_bitselect(s, none, laneMask(rest)));
  }
  float before = *max, now = maxLanes(MAX(top, SPLAT(before)));
  float shift = now == NEG_INFINITY ? 0.0f : now, decay = expScalar(e, before - shift);
  v128_t total = SPLAT(0.0f), minus = SPLAT(shift);
  for (int j = 0; j < whole; j += 4) {
    v128_t w = expF32(e, SUB(load(p + j), minus));
    store(p + j, w);
    total = ADD(total, w);
  }
  if (rest) {
    v128_t w = wasm_v128_and(expF32(e, SUB(loadPart(p + whole, rest), minus)), laneMask(rest));
    storePart(p + whole, w, rest);
    total = ADD(total, w);
  }
#endif
  *max = now;
  *sum = *sum * decay + sumLanes(total);
  /* Nothing to shrink, or nothing there yet. */
  if (decay == 1.0f || before == NEG_INFINITY) return;
  Wide shrink = splatWide(decay);
  for (int i = 0; i < h; i += LANES) {
    int n = minInt(h - i, LANES);
    storeWide(out + i, mulWide(loadWide(out + i, n), shrink), n);
  }
}

/* After the last key: the outputs are divided by the sum; returns log(sum of exp(score)). */
INLINE float softmaxEnd(float max, float sum, float *out, int h) {
  Wide divisor = splatWide(sum);
  for (int i = 0; i < h; i += LANES) {
    int n = minInt(h - i, LANES);
    storeWide(out + i, divWide(loadWide(out + i, n), divisor), n);
  }
  return max + logScalar(sum);
}
