/* Where a memory that JavaScript holds lies in the process. */
#include "../wasm/c/simd.h"

EXPORT(address_of) uintptr_t addressOf(const void *memory) { return (uintptr_t)memory; }
