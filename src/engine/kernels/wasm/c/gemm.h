/*
 * The general matrix product of the module; see gemm.c.
 */
#pragma once
#include "tile.h"

/* Steps of the summed index per block: its partial sums are added up in ascending order. */
#define KC 256
#define MC 128
#define NC 512

/* Floats of scratch that one call of gemm needs, whatever the shape. */
#define GEMM_SCRATCH (NC * KC + MC * KC + MR * NR)

/*
 * C[m,n] (+)= sum over k of A(m,k) B(k,n).
 * alongA: A(m,k) = a[m * lda + k], else a[k * lda + m]. alongB: B(k,n) = b[n * ldb + k], else b[k * ldb + n].
 */
void gemm(int m, int n, int k, const float *a, int lda, int alongA, const float *b, int ldb, int alongB, float *c,
          int ldc, int accumulate, float *scratch);
