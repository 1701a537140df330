/* Tensors of float32 as bfloat16, for products that take such operands. */
#include "bf16.h"

EXPORT(to_bf16) void toBf16(int size, const float *from, uint16_t *to) { roundHalves(size, from, to); }
