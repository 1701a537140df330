/** `writePositions` on the wasm heap: a row of a key/value cache is put in its place, and nothing else is touched. */
import { invariant } from "../../../ops/errors.ts";
import type { Kernels } from "../kernels.ts";
import { requireShape } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";

export function makeWritePositions(heap: KernelHeap): NonNullable<Kernels["writePositions"]> {
  return (target_1SKH, at, source_BTKH, index) => {
    const [, s, k, h] = target_1SKH.shape;
    const [b, t] = source_BTKH.shape;
    requireShape("writePositions: target", target_1SKH, [1, s, k, h]);
    requireShape("writePositions: source", source_BTKH, [b, t, k, h]);
    const fits = at >= 0 && at + t <= s && index >= 0 && index < b;
    invariant(fits, `writePositions: ${t} positions of sequence ${index} of ${b} at ${at} do not fit ${s}`);
    invariant(heap.owners(target_1SKH) === 1, "writePositions: another tensor shares the target's bytes");
    const positionBytes = k * h * 4;
    const from = heap.at(source_BTKH) + index * t * positionBytes;
    const to = heap.at(target_1SKH) + at * positionBytes;
    new Uint8Array(heap.memory.buffer).copyWithin(to, from, from + t * positionBytes);
  };
}
