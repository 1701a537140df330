/** What keys and values are kept as, where pages of shared memory hold them. */
import type { Dtype } from "./tensor.ts";

/** In BF16 they are rounded once, to nearest and ties to even, when they are kept; all sums are float32. */
export const cacheDtypes = ["F32", "BF16"] as const satisfies readonly Dtype[];

export type CacheDtype = (typeof cacheDtypes)[number];
