/*
 * What a step does between its products, a row or a piece of one at a time: the functions of training's kernels, built
 * once more for memory that threads share.
 */
#include "../../wasm/c/rmsNorm.c"
#include "../../wasm/c/swiglu.c"
